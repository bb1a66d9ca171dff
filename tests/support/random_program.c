/*
 * A program that makes random calls on memory in a region of its own, from a seed, to be recorded by strace.
 *
 *     random_program SEED CALLS TOUCH     TOUCH: all, some
 *
 * After each call it touches all mapped pages of the region, or some. It prints a line per call:
 *
 *     PID PROGRAM NUMBER VmPTE VmRSS VmPTE-touched VmRSS-touched
 *
 * in KiB: what /proc showed after the call, and after the touches, less what it showed before the first call. In the
 * recording madvise(NUMBER * 4096, 0, MADV_NORMAL) follows each call.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define SLOT (512 * PAGE)
#define BASE (0x100000000000UL + 512 * SLOT - 3 * SLOT) /* over the border of a GiB */
#define SLOTS 12
#define FAR (BASE + (8UL << 30)) /* where mremap moves to */

static unsigned long state;
static int touch_all_pages, program, number, quiet;
static long base_pte, base_rss;
static sigjmp_buf skip;
static unsigned long entries[16 * SLOT / PAGE];
static char status[1 << 16], maps[1 << 16], stack[1 << 16];
static volatile int thread_done;

static unsigned long draw(unsigned long below)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return state % below;
}

static long read_file(const char *path)
{
	int file = open(path, O_RDONLY);
	long size = 0, got;
	while ((got = read(file, status + size, sizeof status - 1 - size)) > 0)
		size += got;
	close(file);
	status[size] = 0;
	return size;
}

static long field(const char *name)
{
	const char *found = strstr(status, name);
	return found ? atol(found + strlen(name)) : 0;
}

static void measure(long *pte, long *rss)
{
	read_file("/proc/self/status");
	*pte = field("VmPTE:") - base_pte;
	*rss = field("RssAnon:") + field("RssShmem:") - base_rss;
}

static void on_fault(int signal) { (void)signal; siglongjmp(skip, 1); }

/* Write or read the pages of the region that may be, a part of them unless all are to be touched. */
static void touch(void)
{
	read_file("/proc/self/maps");
	memcpy(maps, status, sizeof maps);
	for (char *line = strtok(maps, "\n"); line; line = strtok(NULL, "\n")) {
		unsigned long start, end;
		char rights[5];
		sscanf(line, "%lx-%lx %4s", &start, &end, rights);
		if (start < BASE - SLOT || start >= FAR + 64 * SLOT || rights[0] != 'r')
			continue;
		if (!touch_all_pages && draw(3) == 0)
			continue;
		int file = open("/proc/self/pagemap", O_RDONLY);
		long got = pread(file, entries, (end - start) / PAGE * 8, start / PAGE * 8);
		close(file);
		if (got < (long)((end - start) / PAGE * 8))
			_exit(3);
		unsigned long some = touch_all_pages ? 0 : draw(4);
		for (volatile unsigned long at = start; at < end; at += PAGE) {
			if (some && draw(1 << some))
				continue;
			if (entries[(at - start) / PAGE] >> 58 & 1) /* a guard marker (Linux 6.15) */
				continue;
			if (sigsetjmp(skip, 1))
				continue;
			if (rights[1] == 'w')
				*(volatile char *)at = 1;
			else
				(void)*(volatile char *)at;
		}
	}
}

static void report(void)
{
	long pte, rss, pte_touched, rss_touched;
	char line[128];
	if (!quiet)
		syscall(SYS_madvise, (unsigned long)++number * PAGE, 0UL, MADV_NORMAL);
	measure(&pte, &rss);
	touch();
	measure(&pte_touched, &rss_touched);
	int size = snprintf(line, sizeof line, "%d %d %d %ld %ld %ld %ld\n", getpid(), program, number, pte, rss,
			    pte_touched, rss_touched);
	if (!quiet && write(1, line, size) != size)
		_exit(1);
}

static unsigned long some_start(void)
{
	static const long off[] = {0, 0, 0, PAGE, -(long)PAGE, SLOT / 2};
	return BASE + draw(SLOTS) * SLOT + off[draw(6)];
}

static unsigned long some_length(void)
{
	static const unsigned long lengths[] = {PAGE, 7 * PAGE, SLOT / 2, SLOT, SLOT, 2 * SLOT, SLOT - PAGE,
						SLOT + PAGE, 5 * SLOT};
	return lengths[draw(9)];
}

static int some_rights(void)
{
	static const int rights[] = {PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE};
	return rights[draw(4)];
}

static void one_call(void)
{
	static const int advice[] = {MADV_DONTNEED, MADV_DONTNEED, MADV_DONTNEED, MADV_FREE, 24 /* DONTNEED_LOCKED */,
				     MADV_COLD, MADV_WILLNEED, 102 /* GUARD_INSTALL */, 103 /* GUARD_REMOVE */,
				     22 /* POPULATE_READ */, 23 /* POPULATE_WRITE */, MADV_DONTFORK, MADV_DOFORK,
				     MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_MERGEABLE, MADV_SEQUENTIAL, MADV_DONTDUMP,
				     MADV_REMOVE};
	unsigned long start = some_start(), length = some_length();
	switch (draw(20)) {
	case 0: case 1: case 2: case 3:
		mmap((void *)start, length, some_rights(),
		     MAP_FIXED | MAP_ANONYMOUS | (draw(5) ? MAP_PRIVATE : MAP_SHARED) | (draw(6) ? 0 : MAP_NORESERVE) |
		     (draw(8) ? 0 : MAP_POPULATE), -1, 0);
		break;
	case 4: case 5:
		munmap((void *)start, length);
		break;
	case 6: case 7:
		mprotect((void *)start, length, some_rights());
		break;
	case 8: case 9: {
		unsigned long flags = MREMAP_MAYMOVE, to = FAR + draw(SLOTS) * SLOT + draw(2) * PAGE, size = length;
		switch (draw(4)) {
		case 0: size = some_length(); break; /* may be moved to where the kernel wants */
		case 1: flags |= MREMAP_FIXED; break;
		case 2: flags |= MREMAP_FIXED, to = some_start(); break;
		default: flags |= MREMAP_FIXED | 4; /* DONTUNMAP */
		}
		if (!(flags & MREMAP_FIXED) && size > length)
			size = length; /* shrinks: a growing one may be moved far away */
		syscall(SYS_mremap, start, length, size, flags, to);
		break;
	}
	case 10:
		if (draw(2))
			mlock((void *)start, length);
		else
			munlock((void *)start, length);
		break;
	case 11: {
		unsigned long node = 1;
		syscall(SYS_mbind, start, length, draw(2) ? MPOL_PREFERRED : MPOL_DEFAULT, draw(2) ? &node : NULL, 2, 0);
		break;
	}
	default:
		madvise((void *)start, length, advice[draw(sizeof advice / sizeof *advice)]);
	}
}

static int in_thread(void *unused)
{
	(void)unused;
	for (int i = 0; i < 3; i++)
		one_call();
	thread_done = 1;
	syscall(SYS_exit, 0);
	return 0;
}

static void play(int calls, int depth)
{
	for (int i = 0; i < calls; i++) {
		unsigned long kind = draw(30);
		if (kind == 0 && depth < 2) {
			unsigned long child_state = state + 0x9e3779b97f4a7c15UL;
			pid_t child = draw(3) ? fork() : (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
			if (child == 0) {
				state = child_state;
				/* the tables of the program's own memory: what a child has of them shows without a region */
				base_pte = atol(getenv("CHILD_PTE")), base_rss = 0;
				long pte;
				measure(&pte, &base_rss);
				report();
				play(calls / 3, depth + 1);
				_exit(0);
			}
			waitpid(child, NULL, 0);
		} else if (kind == 1) {
			thread_done = 0;
			clone(in_thread, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
			      CLONE_THREAD | CLONE_SYSVSEM, NULL);
			while (!thread_done)
				usleep(100);
			usleep(2000);
			report();
		} else {
			one_call();
			report();
		}
	}
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
	if (argc < 4)
		return 2;
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	state = strtoul(argv[1], NULL, 10) * 2654435761UL + 1;
	touch_all_pages = !strcmp(argv[3], "all");
	program = argc > 4 ? atoi(argv[4]) : 1;
	memset(entries, 1, sizeof entries), memset(stack, 1, sizeof stack), memset(maps, 1, sizeof maps), memset(status, 1, sizeof status);
	touch();
	/* What a fork copies of the program's own memory: the VmPTE of a child in which the region is empty. */
	int ends[2];
	char text[32] = "";
	if (pipe(ends))
		return 1;
	pid_t child = fork();
	if (child == 0) {
		long pte, rss;
		measure(&pte, &rss);
		touch();
		measure(&pte, &rss);
		int size = snprintf(text, sizeof text, "%ld", pte);
		_exit(write(ends[1], text, size) != size);
	}
	waitpid(child, NULL, 0);
	if (read(ends[0], text, sizeof text - 1) <= 0)
		return 1;
	setenv("CHILD_PTE", text, 1);
	munmap((void *)BASE, PAGE);
	quiet = 1;
	report(); /* so that its own memory does not grow later */
	quiet = number = 0;
	measure(&base_pte, &base_rss);
	mmap((void *)BASE, SLOTS * SLOT, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	report();
	play(atoi(argv[2]), 0);
	if (program == 1 && draw(3) == 0) {
		char seed[24];
		snprintf(seed, sizeof seed, "%lu", state);
		execl("/proc/self/exe", argv[0], seed, argv[2], argv[3], "2", NULL);
	}
	return 0;
}
