/* A known call tree: main and a thread call work(), which calls heavy(), light(), sorted() (a callback of libc), timed() (the vDSO);
 * a timer's signals call handled() on top of whatever runs. Argument: seconds. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static volatile unsigned long sum;
static double end;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void spin(int thousands) {
    for (int i = 0; i < thousands * 1000; i++)
        sum += i;
}

static void handled(int number) {
    spin(300);
    sum += number;
}

static void heavy(void) {
    spin(6000);
    sum++;
}

static void light(void) {
    spin(3000);
    sum++;
}

static int compare(const void *left, const void *right) {
    sum++;
    return *(const int *)left - *(const int *)right;
}

static void sorted(void) {
    static __thread int numbers[20000];
    for (int i = 0; i < 20000; i++)
        numbers[i] = (i * 7919) % 20011;
    qsort(numbers, 20000, sizeof *numbers, compare);
    sum++;
}

static void timed(void) {
    for (int i = 0; i < 20000; i++)
        sum += now() > 0;
    sum++;
}

static void work(void) {
    while (now() < end) {
        heavy();
        light();
        sorted();
        timed();
    }
    sum++;
}

static void *thread_main(void *nothing) {
    work();
    sum++;
    return nothing;
}

int main(int count, char **arguments) {
    struct itimerval every = {{0, 20000}, {0, 20000}};
    struct sigaction action = {.sa_handler = handled, .sa_flags = SA_RESTART};
    pthread_t thread;
    end = now() + atof(arguments[count - 1]);
    sigaction(SIGPROF, &action, 0);
    setitimer(ITIMER_PROF, &every, 0);
    pthread_create(&thread, 0, thread_main, 0);
    work();
    pthread_join(thread, 0);
    return 0;
}
