// Bytes that are known, each kind from a function of its own: of a file in a directory, of the network, of memory. Before, it is busy for some
// seconds, so that whoever measures has the time to learn its files. Prints its /proc/self/io. bytes DIRECTORY SECONDS
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE (64 << 10)
#define PIECES 64
static char piece[PIECE] __attribute__((aligned(4096)));

static int opened(const char *path, int flags) {
    int file = open(path, flags, 0600);
    if (file < 0)
        perror(path), exit(1);
    return file;
}

// The cache is left, so that what is read next comes from the disk.
__attribute__((noinline)) static void writes(const char *path) {
    int file = opened(path, O_CREAT | O_TRUNC | O_WRONLY);
    for (int left = PIECES; left > 0; left--)
        if (write(file, piece, PIECE) != PIECE)
            exit(1);
    fsync(file);
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    close(file);
}

__attribute__((noinline)) static void reads(const char *path) {
    int file = opened(path, O_RDONLY);
    while (read(file, piece, PIECE) > 0)
        ;
    close(file);
}

// Past the cache, where the file system can.
__attribute__((noinline)) static void writes_through(const char *path) {
    int file = open(path, O_WRONLY | O_DIRECT);
    for (int left = PIECES; file >= 0 && left > 0; left--)
        if (write(file, piece, PIECE) != PIECE)
            break;
    close(file);
}

__attribute__((noinline)) static void sends(int connection) {
    for (int left = PIECES; left > 0; left--)
        for (long sent = 0, more; sent < PIECE; sent += more)
            if ((more = write(connection, piece + sent, PIECE - sent)) <= 0)
                exit(1);
    close(connection);
}

__attribute__((noinline)) static void receives(int connection) {
    while (recv(connection, piece, PIECE, MSG_WAITALL) > 0)
        ;
    close(connection);
}

__attribute__((noinline)) static void maps(void) {
    for (int left = PIECES / 2; left > 0; left--)
        munmap(mmap(0, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), PIECE);
}

__attribute__((noinline)) static void breaks(void) {
    for (int left = PIECES / 4; left > 0; left--) {
        sbrk(PIECE);
        sbrk(-PIECE);
    }
}

__attribute__((noinline)) static void commits(void) {
    char *area = mmap(0, (PIECES / 8) * 2 * PIECE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int piece = 0; piece < PIECES / 8; piece++)
        mprotect(area + piece * 2 * PIECE, PIECE, PROT_READ | PROT_WRITE);
    munmap(area, (PIECES / 8) * 2 * PIECE);
}

static void talks(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listening = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listening, (void *)&address, length) || getsockname(listening, (void *)&address, &length) || listen(listening, 1))
        perror("listen"), exit(1);
    if (fork() == 0) {
        int connection = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(connection, (void *)&address, length))
            perror("connect"), _exit(1);
        sends(connection);
        _exit(0);
    }
    receives(accept(listening, 0, 0));
    wait(0);
    close(listening);
}

int main(int count, char **arguments) {
    char text[4096];
    if (count != 3)
        return 2;
    snprintf(text, sizeof text, "%s/file", arguments[1]);
    for (time_t end = time(0) + atoi(arguments[2]); time(0) < end;)
        getppid(); // of the C library, which is learned so, too
    writes(text);
    reads(text);
    writes_through(text);
    talks();
    maps();
    breaks();
    commits();
    unlink(text);
    int told = opened("/proc/self/io", O_RDONLY);
    long size = read(told, text, sizeof text);
    return write(1, text, size) == size ? 0 : 1;
}
