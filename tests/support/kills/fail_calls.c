/* Makes the n-th call of one kind fail, or the process die in it: for all of a process, whatever
 * language its parts are written in. Loaded with LD_PRELOAD; nothing happens until `fault_arm`.
 * Only files below one folder count.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, WRITE, FSYNC, RENAME, UNLINK, LINK };

static int armed = NONE, how = 0;
static atomic_long left;
static char root[PATH_MAX], fired[PATH_MAX];

/* how > 0: that errno, once. how < 0: -how, from there on. how = 0: death. */
void fault_arm(int kind, long number, int way, const char *folder, const char *mark) {
  strncpy(root, folder, sizeof root - 1);
  strncpy(fired, mark, sizeof fired - 1);
  atomic_store(&left, number);
  how = way;
  armed = kind;
}

static int below(const char *path) {
  size_t size = strlen(root);
  return strncmp(path, root, size) == 0 && (path[size] == '/' || path[size] == 0);
}

static int handle_below(int handle) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size <= 0) return 0;
  path[size] = 0;
  return below(path);
}

static int path_below(int folder, const char *path) {
  if (path[0] == '/') return below(path);
  if (folder == AT_FDCWD) {
    char here[PATH_MAX];
    return getcwd(here, sizeof here) != NULL && below(here);
  }
  return handle_below(folder);
}

static void mark(void) {
  long handle = syscall(SYS_openat, AT_FDCWD, fired, O_CREAT | O_WRONLY, 0600);
  if (handle >= 0) syscall(SYS_close, handle);
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

/* 1: this call fails now; errno is set. 2: the process dies in it. */
static int falls(void) {
  long rest = atomic_fetch_sub(&left, 1);
  if (rest > 1 || (rest < 1 && how >= 0)) return 0;
  mark();
  if (how == 0) return 2;
  errno = how > 0 ? how : -how;
  return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* A process that dies in a `write` has written half of it. */
#define WRITES(name, args, call, half)            \
  ssize_t name args {                             \
    if (armed == WRITE && handle_below(handle)) { \
      int falling = falls();                      \
      if (falling == 1) return -1;                \
      if (falling == 2) {                         \
        half;                                     \
        die();                                    \
      }                                           \
    }                                             \
    return NEXT(name) call;                       \
  }

WRITES(write, (int handle, const void *data, size_t size), (handle, data, size),
       NEXT(write)(handle, data, size / 2))
WRITES(pwrite, (int handle, const void *data, size_t size, off_t at), (handle, data, size, at),
       NEXT(pwrite)(handle, data, size / 2, at))
WRITES(pwrite64, (int handle, const void *data, size_t size, off64_t at), (handle, data, size, at),
       NEXT(pwrite64)(handle, data, size / 2, at))
WRITES(writev, (int handle, const struct iovec *parts, int count), (handle, parts, count), (void)0)
WRITES(sendfile, (int handle, int from, off_t *at, size_t size), (handle, from, at, size), (void)0)
WRITES(sendfile64, (int handle, int from, off64_t *at, size_t size), (handle, from, at, size),
       (void)0)
WRITES(copy_file_range,
       (int from, off64_t *start, int handle, off64_t *at, size_t size, unsigned flags),
       (from, start, handle, at, size, flags), (void)0)

#define CALLS(kind, name, args, call, test)        \
  int name args {                                  \
    if (armed == kind && (test)) {                 \
      int falling = falls();                   \
      if (falling == 1) return -1;                 \
      if (falling == 2) die();                     \
    }                                              \
    return NEXT(name) call;                        \
  }

CALLS(FSYNC, fsync, (int handle), (handle), handle_below(handle))
CALLS(FSYNC, fdatasync, (int handle), (handle), handle_below(handle))
CALLS(RENAME, rename, (const char *from, const char *to), (from, to), path_below(AT_FDCWD, to))
CALLS(RENAME, renameat, (int one, const char *from, int other, const char *to),
      (one, from, other, to), path_below(other, to))
CALLS(RENAME, renameat2, (int one, const char *from, int other, const char *to, unsigned flags),
      (one, from, other, to, flags), path_below(other, to))
CALLS(UNLINK, unlink, (const char *path), (path), path_below(AT_FDCWD, path))
CALLS(UNLINK, unlinkat, (int folder, const char *path, int flags), (folder, path, flags),
      path_below(folder, path))
CALLS(UNLINK, rmdir, (const char *path), (path), path_below(AT_FDCWD, path))
CALLS(LINK, link, (const char *from, const char *to), (from, to), path_below(AT_FDCWD, to))
CALLS(LINK, linkat, (int one, const char *from, int other, const char *to, int flags),
      (one, from, other, to, flags), path_below(other, to))
CALLS(LINK, symlink, (const char *from, const char *to), (from, to), path_below(AT_FDCWD, to))
CALLS(LINK, symlinkat, (const char *from, int other, const char *to), (from, other, to),
      path_below(other, to))
CALLS(LINK, mkdir, (const char *path, mode_t mode), (path, mode), path_below(AT_FDCWD, path))
