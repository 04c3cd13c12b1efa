/* Puts the wall clock of a process CLOCK_AHEAD_S seconds ahead: cc -shared -fPIC, then LD_PRELOAD.
 *
 * Monotonic clocks stay as they are, and so do waits, which Python measures by them. libfaketime 0.9.10 does not fit:
 * it knows nothing of sem_clockwait, by which Python 3.11 waits for locks, and makes clock_nanosleep fail.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t ahead_s(void) {
  static time_t known = -1;
  if (known < 0) {
    const char *given = getenv("CLOCK_AHEAD_S");
    known = given ? atol(given) : 0;
  }
  return known;
}

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, now);
  if (!failed && is_wall(clock)) now->tv_sec += ahead_s();
  return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec found;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &found)) return -1;
  now->tv_sec = found.tv_sec;
  now->tv_usec = found.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *place) {
  struct timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  if (place) *place = found.tv_sec;
  return found.tv_sec;
}

/* Waits until a time of the wall clock: the kernel, and glibc, know the true one. */

static struct timespec true_time(const struct timespec *until) {
  struct timespec moved = *until;
  moved.tv_sec -= ahead_s();
  return moved;
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
  static int (*real)(sem_t *, const struct timespec *);
  if (!real) real = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
  struct timespec moved = true_time(until);
  return real(semaphore, &moved);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *until) {
  static int (*real)(pthread_mutex_t *, const struct timespec *);
  if (!real) real = (int (*)(pthread_mutex_t *, const struct timespec *))dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
  struct timespec moved = true_time(until);
  return real(mutex, &moved);
}
