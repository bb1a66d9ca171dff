/* Calls on memory of every kind that a recording must show: threads, a fork, an exec of itself, a vector, failures. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/syscall.h>
#include <unistd.h>
#define MIB (1UL << 20)
static char *map(unsigned long size) { return mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
static void *work(void *given)
{
	char *m = map(6 * MIB);
	madvise(m, 5 * MIB, MADV_DONTNEED);
	munmap(m + 4 * MIB, 2 * MIB);
	return given;
}
int main(int argc, char **argv)
{
	char *m = map(16 * MIB), *n;
	pthread_t thread;
	struct iovec ranges[2];
	if (argc > 1) {
		n = mremap(m, 16 * MIB, 24 * MIB, MREMAP_MAYMOVE);
		madvise(n, 8 * MIB, MADV_FREE);
		return 0;
	}
	memset(m, 1, 16 * MIB);
	puts("printed by the program");
	mprotect(m + MIB, MIB, PROT_READ);
	ranges[0].iov_base = m; ranges[0].iov_len = 2 * MIB;
	ranges[1].iov_base = m + 8 * MIB; ranges[1].iov_len = 4 * MIB;
	syscall(SYS_process_madvise, syscall(SYS_pidfd_open, getpid(), 0), ranges, 2, MADV_DONTNEED, 0);
	mlock(m + 6 * MIB, MIB);
	madvise(m + 4 * MIB, 4 * MIB, MADV_DONTNEED);
	munmap(m + 14 * MIB, 2 * MIB);
	madvise(m + 12 * MIB, MIB, MADV_DONTNEED);
	pthread_create(&thread, 0, work, 0);
	pthread_join(thread, 0);
	fflush(stdout);
	if (!fork()) {
		madvise(m + 12 * MIB, 2 * MIB, MADV_DONTNEED);
		_exit(0);
	}
	wait(0);
	execl(argv[0], argv[0], "again", NULL);
	return 1;
}
