// The operations of networks as launches on the current GPU: they return at once and throw CudaFailure. Memory and
// stream are the caller's.
#pragma once

#include "attention.h"
#include "hash_pack.h"
#include "stream.h"

namespace athsearch {
namespace cuda {

using attention::AttentionBackward;
using attention::AttentionForward;
using hash::HashPack;

void launch_attention(const AttentionForward& call, Stream stream);
void launch_attention_backward(const AttentionBackward& call, Stream stream);
void launch_hash_pack(const HashPack& call, Stream stream);

}  // namespace cuda
}  // namespace athsearch
