// A known call tree with exceptions: main calls work(), which calls heavy() and caught(); dive() throws from a depth of 20.
#include <chrono>
#include <cstdlib>
#include <stdexcept>

static volatile unsigned long sum;

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static void heavy() {
    for (int i = 0; i < 1000000; i++)
        sum += i;
}

static int dive(int depth) {
    if (!depth)
        throw std::runtime_error("as deep as it goes");
    return dive(depth - 1) + 1;
}

static void caught() {
    for (int i = 0; i < 100; i++)
        try {
            sum += dive(20);
        } catch (const std::exception &error) {
            sum += error.what()[0];
        }
}

static void work(double end) {
    while (now() < end) {
        heavy();
        caught();
    }
    sum++;
}

int main(int count, char **arguments) {
    work(now() + std::atof(arguments[count - 1]));
    return 0;
}
