/* The one program in the test bed's image: waits, spins or sleeps. Static, so the image is it. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void end(int signal) { (void)signal; _exit(0); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    signal(SIGTERM, end); /* the first process of a pid namespace dies of no signal otherwise */
    const char *what = argc > 1 ? argv[1] : "pause";
    double until = now() + (argc > 2 ? atof(argv[2]) : 0);
    if (!strcmp(what, "pause")) for (;;) pause();
    if (!strcmp(what, "spin")) { while (now() < until) {} return 0; }
    if (!strcmp(what, "sleep")) {
        for (double left; (left = until - now()) > 0;) {
            struct timespec t = { (time_t)left, (long)((left - (time_t)left) * 1e9) };
            nanosleep(&t, 0);
        }
        return 0;
    }
    return 2;
}
