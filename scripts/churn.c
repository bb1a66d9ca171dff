/* A malloc and free churn, for any allocator that LD_PRELOAD puts under it. cc -O2 -pthread -o churn churn.c
 *
 * churn THREADS LEAST MOST LIVE TOTAL SETTLE: each thread mallocs blocks of LEAST to MOST bytes (log-uniform), writes
 * a byte of each page, and frees random ones to stay below its part of LIVE bytes, until it had its part of TOTAL.
 * After each hundredth of that it rests 20 ms, as delayed purges want time. Then it frees all and ends. After SETTLE
 * seconds, in which the main thread goes on with blocks of 64 and of LEAST bytes, so that purges which wait for a call
 * get theirs, it prints "settled" and waits for the end of its input. Sizes in bytes.
 */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MOST_THREADS = 64, MOST_BLOCKS = 1 << 20 };

struct block {
    char *at;
    size_t size;
};

static struct block blocks[MOST_THREADS][MOST_BLOCKS]; /* not from malloc, and only what is used is touched */
static double least, most, live, total;

static uint64_t draw(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

static void *churn(void *thread)
{
    uint64_t state = (uintptr_t)thread;
    struct block *mine = blocks[(uintptr_t)thread];
    size_t count = 0;
    double held = 0, had = 0, rest = total / 100;
    while (had < total) {
        double share = (double)(draw(&state) >> 11) / (double)(1ull << 53);
        size_t size = (size_t)(least * pow(most / least, share));
        while (count && (held + (double)size > live || count == MOST_BLOCKS)) {
            size_t i = draw(&state) % count;
            free(mine[i].at);
            held -= (double)mine[i].size;
            mine[i] = mine[--count];
        }
        char *at = malloc(size);
        if (!at)
            abort();
        for (size_t byte = 0; byte < size; byte += 4096)
            at[byte] = 1;
        mine[count++] = (struct block){at, size};
        held += (double)size;
        had += (double)size;
        if (had > rest) {
            rest += total / 100;
            usleep(20000);
        }
    }
    while (count)
        free(mine[--count].at);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 7 || atoi(argv[1]) < 1 || atoi(argv[1]) > MOST_THREADS) {
        fprintf(stderr, "usage: churn THREADS LEAST MOST LIVE TOTAL SETTLE\n");
        return 2;
    }
    int threads = atoi(argv[1]);
    least = atof(argv[2]), most = atof(argv[3]);
    live = atof(argv[4]) / threads, total = atof(argv[5]) / threads;
    pthread_t others[MOST_THREADS];
    for (intptr_t i = 1; i < threads; i++)
        if (pthread_create(&others[i], NULL, churn, (void *)i))
            return 1;
    churn(NULL);
    for (int i = 1; i < threads; i++)
        pthread_join(others[i], NULL);
    for (double waited = 0; waited < atof(argv[6]); waited += 0.01) {
        for (int i = 0; i <= 100; i++) {
            volatile char *block = malloc(i < 100 ? 64 : (size_t)least);
            if (block)
                *block = 1;
            free((void *)block);
        }
        usleep(10000);
    }
    puts("settled");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
