/* A preloaded library that logs what a program does to the files below one folder, or lets it fail.

   It stands in front of libc, so that SQLite's calls are seen as Python's are. What the program does and its line of
   the log happen under one lock: the log is the order. Files are told apart by inode, since they are renamed while
   open.

   A record is a `struct record`, then path, second path and data. Its operation is one of

   - C create, D mkdir, R rename, L link, U unlink or rmdir
   - W write at `offset`, T truncate to `offset`, S fsync or fdatasync
   - P whole content of a file that was written through a map, which cannot be seen: the file is read, before the sync
     or unmapping that makes it count
   - M mark of the program

   Faults (recorder_fault) are one of

   - f: from the n-th call that takes room on the disk on, all fail with ENOSPC, the first after half of its bytes
   - w: the n-th write fails with EIO
   - s: the n-th sync fails with EIO

   What is watched is never synced: a program cannot tell, and it is faster. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct __attribute__((packed)) record {
  uint8_t operation;
  uint64_t inode;
  int64_t offset;
  uint32_t path_bytes, other_bytes, data_bytes;
};

struct map {
  void* address;
  char path[PATH_MAX];
};

enum { MOST_MAPS = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static size_t folder_bytes;
static int log_descriptor = -1;
static char fault;
static long fault_at, n_writes, n_syncs;
static struct map maps[MOST_MAPS];

/* The function of libc that ours stands in front of. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_below(const char* path) {
  return folder_bytes && !strncmp(path, folder, folder_bytes) && (path[folder_bytes] == '/' || !path[folder_bytes]);
}

/* The path of a descriptor, as it is now. */
static int path_of(int descriptor, char* path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t n_bytes = readlink(link, path, PATH_MAX - 1);
  path[n_bytes < 0 ? 0 : n_bytes] = 0;
  return n_bytes > 0;
}

static int is_watched(int descriptor, char* path) {
  return folder_bytes && path_of(descriptor, path) && is_below(path);
}

static void absolute(int at, const char* name, char* path) {
  char parent[PATH_MAX] = "";
  if (name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name);
  } else if (at == AT_FDCWD ? getcwd(parent, sizeof parent) != NULL : path_of(at, parent)) {
    snprintf(path, PATH_MAX, "%.*s/%s", (int)(PATH_MAX - strlen(name) - 2), parent, name);
  }
}

static void log_record(char operation, uint64_t inode, int64_t offset, const char* path, const char* other,
                       const void* data, size_t data_bytes) {
  if (log_descriptor < 0) return;
  struct record head = {operation, inode, offset, strlen(path), strlen(other), data_bytes};
  struct iovec parts[] = {{&head, sizeof head},
                          {(void*)path, head.path_bytes},
                          {(void*)other, head.other_bytes},
                          {(void*)data, data_bytes}};
  if (REAL(writev)(log_descriptor, parts, 4) !=
      (ssize_t)(sizeof head + head.path_bytes + head.other_bytes + data_bytes)) {
    fprintf(stderr, "recorder: the log cannot be written\n");
    abort();
  }
}

static uint64_t inode_of(const char* path) {
  struct stat status;
  return lstat(path, &status) ? 0 : status.st_ino;
}

static int64_t size_of(int descriptor, uint64_t* inode) {
  struct stat status = {0};
  fstat(descriptor, &status);
  *inode = status.st_ino;
  return status.st_size;
}

void recorder_start(const char* below, const char* log) {
  folder_bytes = snprintf(folder, sizeof folder, "%s", below);
  log_descriptor = log ? REAL(openat64)(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  n_writes = n_syncs = fault_at = 0;
}

void recorder_fault(char kind, long at) {
  fault = kind;
  fault_at = at;
}

long recorder_count(char kind) { return kind == 's' ? n_syncs : n_writes; }

void recorder_mark(const char* text) {
  pthread_mutex_lock(&lock);
  log_record('M', 0, 0, "", "", text, strlen(text));
  pthread_mutex_unlock(&lock);
}

/* Whether a call that writes `n_bytes`, and makes a file grow or not, is to fail; sets errno. May allow half of them.
 */
static int write_fails(int grows, size_t* n_bytes) {
  if (!grows && fault == 'f') return 0;
  n_writes++;
  if (fault == 'w' && n_writes == fault_at) {
    errno = EIO;
    return 1;
  }
  if (fault != 'f' || n_writes < fault_at) return 0;
  if (n_writes == fault_at && n_bytes && *n_bytes > 1) {
    *n_bytes /= 2;
    return 0;
  }
  errno = ENOSPC;
  return 1;
}

int openat64(int at, const char* name, int flags, ...) {
  mode_t mode = 0;
  if (flags & (O_CREAT | __O_TMPFILE)) {
    va_list rest;
    va_start(rest, flags);
    mode = va_arg(rest, mode_t);
    va_end(rest);
  }
  char path[PATH_MAX] = "";
  if (!folder_bytes || !(flags & (O_CREAT | O_TRUNC))) return REAL(openat64)(at, name, flags, mode);
  absolute(at, name, path);
  if (!is_below(path)) return REAL(openat64)(at, name, flags, mode);
  pthread_mutex_lock(&lock);
  int is_new = !inode_of(path), result = -1;
  if (!is_new || !write_fails(1, NULL)) result = REAL(openat64)(at, name, flags, mode);
  int error = errno;
  if (result >= 0 && is_new) log_record('C', inode_of(path), 0, path, "", "", 0);
  if (result >= 0 && !is_new && flags & O_TRUNC) log_record('T', inode_of(path), 0, path, "", "", 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

#define FORWARD_OPEN(name, parameters, at, path) \
  int name parameters {                          \
    va_list rest;                                \
    va_start(rest, flags);                       \
    mode_t mode = va_arg(rest, mode_t);          \
    va_end(rest);                                \
    return openat64(at, path, flags, mode);      \
  }
FORWARD_OPEN(open, (const char* path, int flags, ...), AT_FDCWD, path)
FORWARD_OPEN(open64, (const char* path, int flags, ...), AT_FDCWD, path)
FORWARD_OPEN(openat, (int at, const char* path, int flags, ...), at, path)
int creat(const char* path, mode_t mode) { return openat64(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char* path, mode_t mode) { return creat(path, mode); }

/* offset < 0: at the descriptor's own place. */
static ssize_t write_at(int descriptor, const void* data, size_t n_bytes, off64_t offset) {
  char path[PATH_MAX];
  if (!is_watched(descriptor, path)) {
    return offset < 0 ? REAL(write)(descriptor, data, n_bytes) : REAL(pwrite64)(descriptor, data, n_bytes, offset);
  }
  pthread_mutex_lock(&lock);
  uint64_t inode;
  int64_t size = size_of(descriptor, &inode);
  int is_appending = fcntl(descriptor, F_GETFL) & O_APPEND;
  int64_t begin = offset >= 0 ? offset : is_appending ? size : lseek64(descriptor, 0, SEEK_CUR);
  ssize_t result = -1;
  if (!write_fails(begin + (int64_t)n_bytes > size, &n_bytes)) {
    result = offset < 0 ? REAL(write)(descriptor, data, n_bytes) : REAL(pwrite64)(descriptor, data, n_bytes, offset);
  }
  int error = errno;
  if (result > 0) log_record('W', inode, begin, path, "", data, result);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

ssize_t write(int descriptor, const void* data, size_t n_bytes) { return write_at(descriptor, data, n_bytes, -1); }
ssize_t pwrite64(int descriptor, const void* data, size_t n_bytes, off64_t offset) {
  return write_at(descriptor, data, n_bytes, offset);
}
ssize_t pwrite(int descriptor, const void* data, size_t n_bytes, off_t offset) {
  return write_at(descriptor, data, n_bytes, offset);
}
ssize_t writev(int descriptor, const struct iovec* parts, int n_parts) {
  char path[PATH_MAX];
  if (!is_watched(descriptor, path)) return REAL(writev)(descriptor, parts, n_parts);
  ssize_t n_done = 0;
  for (int part = 0; part < n_parts; part++) {
    ssize_t n_now = write_at(descriptor, parts[part].iov_base, parts[part].iov_len, -1);
    if (n_now < 0) return n_done ? n_done : n_now;
    n_done += n_now;
    if (n_now < (ssize_t)parts[part].iov_len) break;
  }
  return n_done;
}

int ftruncate64(int descriptor, off64_t n_bytes) {
  char path[PATH_MAX];
  if (!is_watched(descriptor, path)) return REAL(ftruncate64)(descriptor, n_bytes);
  pthread_mutex_lock(&lock);
  uint64_t inode;
  int64_t size = size_of(descriptor, &inode);
  int result = write_fails(n_bytes > size, NULL) ? -1 : REAL(ftruncate64)(descriptor, n_bytes);
  int error = errno;
  if (!result) log_record('T', inode, n_bytes, path, "", "", 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}
int ftruncate(int descriptor, off_t n_bytes) { return ftruncate64(descriptor, n_bytes); }

int posix_fallocate64(int descriptor, off64_t offset, off64_t n_bytes) {
  char path[PATH_MAX];
  if (!is_watched(descriptor, path)) return REAL(posix_fallocate64)(descriptor, offset, n_bytes);
  pthread_mutex_lock(&lock);
  uint64_t inode;
  int result = write_fails(1, NULL) ? errno : REAL(posix_fallocate64)(descriptor, offset, n_bytes);
  if (!result) log_record('T', inode, size_of(descriptor, &inode), path, "", "", 0);
  pthread_mutex_unlock(&lock);
  return result;
}
int posix_fallocate(int descriptor, off_t offset, off_t n_bytes) {
  return posix_fallocate64(descriptor, offset, n_bytes);
}

int fallocate64(int descriptor, int mode, off64_t offset, off64_t n_bytes) {
  char path[PATH_MAX];
  if (!is_watched(descriptor, path)) return REAL(fallocate64)(descriptor, mode, offset, n_bytes);
  errno = EOPNOTSUPP; /* nothing of ours calls it: whoever does tries another way, or is seen by failing */
  return -1;
}
int fallocate(int descriptor, int mode, off_t offset, off_t n_bytes) {
  return fallocate64(descriptor, mode, offset, n_bytes);
}

int renameat2(int at, const char* name, int other_at, const char* other_name, unsigned flags) {
  char path[PATH_MAX] = "", other[PATH_MAX] = "";
  absolute(at, name, path);
  absolute(other_at, other_name, other);
  if (!is_below(path) && !is_below(other)) return REAL(renameat2)(at, name, other_at, other_name, flags);
  pthread_mutex_lock(&lock);
  int result = REAL(renameat2)(at, name, other_at, other_name, flags);
  int error = errno;
  if (!result) log_record('R', inode_of(other), 0, path, other, "", 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}
int renameat(int at, const char* name, int other_at, const char* other) {
  return renameat2(at, name, other_at, other, 0);
}
int rename(const char* name, const char* other) { return renameat2(AT_FDCWD, name, AT_FDCWD, other, 0); }

int linkat(int at, const char* name, int other_at, const char* other_name, int flags) {
  char path[PATH_MAX] = "", other[PATH_MAX] = "";
  absolute(at, name, path);
  absolute(other_at, other_name, other);
  if (!is_below(other)) return REAL(linkat)(at, name, other_at, other_name, flags);
  pthread_mutex_lock(&lock);
  int result = write_fails(1, NULL) ? -1 : REAL(linkat)(at, name, other_at, other_name, flags);
  int error = errno;
  if (!result) log_record('L', inode_of(other), 0, path, other, "", 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}
int link(const char* name, const char* other) { return linkat(AT_FDCWD, name, AT_FDCWD, other, 0); }

int unlinkat(int at, const char* name, int flags) {
  char path[PATH_MAX] = "";
  absolute(at, name, path);
  if (!is_below(path)) return REAL(unlinkat)(at, name, flags);
  pthread_mutex_lock(&lock);
  uint64_t inode = inode_of(path);
  int result = REAL(unlinkat)(at, name, flags);
  int error = errno;
  if (!result) log_record('U', inode, 0, path, "", "", 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}
int unlink(const char* name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char* name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int remove(const char* name) {
  int result = unlink(name);
  return result && errno == EISDIR ? rmdir(name) : result;
}

int mkdirat(int at, const char* name, mode_t mode) {
  char path[PATH_MAX] = "";
  absolute(at, name, path);
  if (!is_below(path)) return REAL(mkdirat)(at, name, mode);
  pthread_mutex_lock(&lock);
  int result = write_fails(1, NULL) ? -1 : REAL(mkdirat)(at, name, mode);
  int error = errno;
  if (!result) log_record('D', inode_of(path), 0, path, "", "", 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}
int mkdir(const char* name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

/* What a file holds now, if it was ever mapped to be written. */
static void log_content(const char* path, int is_unmapped, void* address) {
  for (int place = 0; place < MOST_MAPS; place++) {
    if (!maps[place].address || (is_unmapped ? maps[place].address != address : strcmp(maps[place].path, path)))
      continue;
    int descriptor = REAL(openat64)(AT_FDCWD, maps[place].path, O_RDONLY | O_CLOEXEC);
    uint64_t inode;
    if (descriptor >= 0) {
      int64_t n_bytes = size_of(descriptor, &inode);
      char* content = malloc(n_bytes + 1);
      if (content && pread64(descriptor, content, n_bytes, 0) == n_bytes) {
        log_record('P', inode, 0, maps[place].path, "", content, n_bytes);
      }
      free(content);
      close(descriptor);
    }
    if (is_unmapped) maps[place].address = NULL;
  }
}

static int sync_by(int (*real)(int), int descriptor) {
  char path[PATH_MAX];
  if (!is_watched(descriptor, path)) return real(descriptor);
  pthread_mutex_lock(&lock);
  log_content(path, 0, NULL);
  int result = 0, error = errno;
  if (++n_syncs == fault_at && fault == 's') {
    result = -1;
    error = EIO;
  } else {
    uint64_t inode;
    size_of(descriptor, &inode);
    log_record('S', inode, 0, path, "", "", 0);
  }
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}
int fsync(int descriptor) { return sync_by(REAL(fsync), descriptor); }
int fdatasync(int descriptor) { return sync_by(REAL(fdatasync), descriptor); }

void* mmap64(void* wanted, size_t n_bytes, int protection, int flags, int descriptor, off64_t offset) {
  char path[PATH_MAX];
  void* address = REAL(mmap64)(wanted, n_bytes, protection, flags, descriptor, offset);
  if (address != MAP_FAILED && flags & MAP_SHARED && protection & PROT_WRITE && descriptor >= 0 &&
      is_watched(descriptor, path)) {
    pthread_mutex_lock(&lock);
    int place = 0;
    while (place < MOST_MAPS && maps[place].address) place++;
    if (place == MOST_MAPS) abort();
    maps[place].address = address;
    strcpy(maps[place].path, path);
    pthread_mutex_unlock(&lock);
  }
  return address;
}
void* mmap(void* wanted, size_t n_bytes, int protection, int flags, int descriptor, off_t offset) {
  return mmap64(wanted, n_bytes, protection, flags, descriptor, offset);
}

int munmap(void* address, size_t n_bytes) {
  if (folder_bytes) {
    pthread_mutex_lock(&lock);
    log_content("", 1, address);
    pthread_mutex_unlock(&lock);
  }
  return REAL(munmap)(address, n_bytes);
}
