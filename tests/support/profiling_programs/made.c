/* A known call tree in code made at run time, which keeps frame pointers and has a perf map: main calls outer, outer calls leaf, which does
 * little but make and leave its frame. Argument: seconds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const unsigned char LEAF[] = {
    0x55, 0x48, 0x89, 0xe5, /* push %rbp; mov %rsp, %rbp */
    0xc9, 0xc3,             /* leave; ret */
};
static const unsigned char OUTER[] = {
    0x55, 0x48, 0x89, 0xe5,             /* push %rbp; mov %rsp, %rbp */
    0x53, 0x50,                         /* push %rbx; push %rax */
    0xbb, 0x40, 0x42, 0x0f, 0x00,       /* mov $1000000, %ebx */
    0xe8, 0xe0, 0xff, 0xff, 0xff,       /* call leaf, which is 32 bytes before the next instruction */
    0xff, 0xcb, 0x75, 0xf7,             /* dec %ebx; jnz to the call */
    0x58, 0x5b, 0xc9, 0xc3,             /* pop %rax; pop %rbx; leave; ret */
};
#define OUTER_AT 16

int main(int count, char **arguments) {
    char path[64];
    double seconds = atof(arguments[count - 1]);
    unsigned char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct timespec begin, now;
    memcpy(code, LEAF, sizeof LEAF);
    memcpy(code + OUTER_AT, OUTER, sizeof OUTER);
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    FILE *map = fopen(path, "w");
    if (!map)
        return 1;
    fprintf(map, "%lx %lx leaf\n%lx %lx outer\n", (long)code, (long)sizeof LEAF, (long)code + OUTER_AT, (long)sizeof OUTER);
    fclose(map);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        ((void (*)(void))(code + OUTER_AT))();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9 < seconds);
    return 0;
}
