/*
 * The agent: the only program of a guest, started as init. It reads commands from a channel (a serial port or a virtio
 * port), plays scenarios and recordings, each in a child process, and answers in lines of text.
 *
 * Integers are little-endian, as on both architectures. A command is a byte:
 *   R path              answer `data N` and N bytes: the content of a file
 *   W path text         write a file (tracefs); answer `ok` or `error`
 *   P struct point      play a scenario; answers below
 *   S struct recording  play a recording: `step ERRNO VMPTE RSS ANON_HUGE` after each operation
 * P answers `ready`, then for each half of a round `half VMPTE RSS VMRSS ANON_HUGE NS`, the figures of /proc in KiB since
 * before the first touch; then `left FIRST END` for each run of slots that hold an entry, and `done`. Instead of any of
 * these: `no_space`, `error TEXT`, or `lost SIGNAL` if the child died.
 *
 * After every ACK_BYTES that it has read, the agent sends a `+`, for which the host waits: a serial port has no flow
 * control that QEMU obeys.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define ACK_BYTES 16384
#define BASE (16ull << 40)         /* of the VMA: nothing else is in the PUD table that maps it */
#define HIGH_BASE (1ull << 48)     /* of the VMA where the kernel has 52 bits of addresses and pages of 16 KiB */
#define REHEARSAL_BASE (8ull << 40)
#define REHEARSAL_BYTES (8ull << 20)
#define ADVISE_UNMAP (-1)          /* munmap in place of madvise */
#define POPULATE_READ 22           /* Linux 5.14 */
#define POPULATE_WRITE 23
#define GUARD_INSTALL 102          /* Linux 6.13 */
#define FIXED_NOREPLACE 0x100000
#define WARM_UPS 4
#define THP "/sys/kernel/mm/transparent_hugepage/"
#define INSTALLING "sweep-install" /* the names of threads while probes count what they do (engine/inside) */
#define ZAPPING "sweep-zap"
#define UNCOUNTED "sweep-idle"

typedef uint64_t u64;
typedef int64_t i64;
typedef uint32_t u32;

struct range { u64 start, length; };                       /* bytes, from the VMA's start */
struct array { u64 rows; struct range *ranges; };
struct point { u64 virt; u32 threads, arrays, rounds, thp_disable; i64 map_advice, zap_advice; };
struct round { u32 holes, installs, calls, at; };          /* at: of its first offset in `offsets` */
struct recording { u32 steps; };
struct step { i64 kind, argument; u64 start, length, stride; };
enum { STEP_MMAP, STEP_MUNMAP, STEP_MPROTECT, STEP_MADVISE, STEP_TOUCH };
struct answer { i64 ns; int error; int calls; };           /* of a child, after a half or a step */
struct figures { i64 vm_pte, rss, vm_rss, anon_huge; };    /* KiB */

static int channel = -1;
static u64 page, base;
static int is_counted;             /* whether probes count what the child does: not while it rehearses */

/* ---- the channel ---- */

static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	_exit(1);
}

static void put(const void *data, size_t size)
{
	const char *at = data;
	while (size) {
		ssize_t n = write(channel, at, size);
		if (n <= 0 && errno != EINTR && errno != EAGAIN)
			power_off();
		if (n > 0)
			at += n, size -= n;
	}
}

static void say(const char *format, ...)
{
	char line[512];
	va_list list;
	va_start(list, format);
	int n = vsnprintf(line, sizeof line - 1, format, list);
	va_end(list);
	if (n > (int)sizeof line - 2)
		n = sizeof line - 2;
	line[n++] = '\n';
	put(line, n);
}

static void take(void *data, size_t size)
{
	static char buffer[4096];
	static size_t filled, used, since_ack;
	char *to = data;
	while (size) {
		if (used == filled) {
			ssize_t n = read(channel, buffer, sizeof buffer);
			if (n <= 0) {
				if (n < 0 && (errno == EINTR || errno == EAGAIN))
					continue;
				power_off(); /* the host has closed its end */
			}
			used = 0, filled = n, since_ack += n;
			for (; since_ack >= ACK_BYTES; since_ack -= ACK_BYTES)
				put("+", 1);
		}
		size_t n = filled - used < size ? filled - used : size;
		memcpy(to, buffer + used, n);
		to += n, used += n, size -= n;
	}
}

static u64 take_number(void)
{
	u64 value;
	take(&value, sizeof value);
	return value;
}

static void *memory(u64 size)
{
	void *at = mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	return at == MAP_FAILED ? NULL : at;
}

/* Text: its length, then its bytes. */
static char *take_text(u64 *length)
{
	*length = take_number();
	char *text = memory(*length + 1);
	if (!text)
		power_off();
	take(text, *length);
	text[*length] = 0;
	return text;
}

/* ---- files ---- */

/* The content of a file, of at most `size` - 1 bytes, as a string. */
static const char *read_text(const char *path, char *text, size_t size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	size_t filled = 0;
	if (file >= 0) {
		ssize_t n;
		while (filled < size - 1 && (n = read(file, text + filled, size - 1 - filled)) > 0)
			filled += n;
		close(file);
	}
	text[filled] = 0;
	return text;
}

static i64 number_after(const char *text, const char *name)
{
	const char *at = strstr(text, name);
	return at ? strtoll(at + strlen(name), NULL, 10) : -1;
}

static int write_text(const char *path, const char *text, size_t length)
{
	int file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC), error = 0;
	if (file < 0)
		file = open(path, O_WRONLY | O_CLOEXEC);
	if (file < 0 || write(file, text, length) != (ssize_t)length)
		error = errno;
	if (file >= 0)
		close(file);
	return error;
}

static void answer_file(void)
{
	u64 length;
	char *path = take_text(&length), *text = NULL;
	int file = open(path, O_RDONLY | O_CLOEXEC);
	size_t filled = 0, size = 1 << 16;
	ssize_t n = 0;
	if (file >= 0) {
		text = malloc(size);
		while (text && (n = read(file, text + filled, size - filled)) > 0) {
			filled += n;
			if (filled == size)
				text = realloc(text, size *= 2);
		}
		close(file);
	}
	if (file < 0 || n < 0)
		say("error %s: %s", path, strerror(errno));
	else {
		say("data %zu", filled);
		put(text, filled);
	}
	free(text);
	munmap(path, length + 1);
}

static void write_file(void)
{
	u64 length, text_length;
	char *path = take_text(&length), *text = take_text(&text_length);
	int error = write_text(path, text, text_length);
	if (error)
		say("error %s: %s", path, strerror(error));
	else
		say("ok");
	munmap(path, length + 1);
	munmap(text, text_length + 1);
}

static struct figures read_figures(pid_t child)
{
	char path[64], text[8192];
	struct figures f;
	snprintf(path, sizeof path, "/proc/%d/status", child);
	read_text(path, text, sizeof text);
	f.vm_pte = number_after(text, "VmPTE:");
	f.vm_rss = number_after(text, "VmRSS:");
	snprintf(path, sizeof path, "/proc/%d/smaps_rollup", child); /* counted entry by entry, in all kernels */
	read_text(path, text, sizeof text);
	f.rss = number_after(text, "\nRss:");
	f.anon_huge = number_after(text, "\nAnonHugePages:");
	return f;
}

/* ---- what a child does ---- */

static i64 cpu_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static struct answer make_calls(u64 start_at, const struct range *ranges, u64 count, i64 advice)
{
	struct answer answer = {0};
	int installs = advice == GUARD_INSTALL || advice == POPULATE_WRITE;
	prctl(PR_SET_NAME, !is_counted ? UNCOUNTED : installs ? INSTALLING : ZAPPING);
	i64 before = cpu_ns(), start = cpu_ns();
	for (u64 i = 0; i < count; i++) {
		void *at = (void *)(start_at + ranges[i].start);
		int failed = advice == ADVISE_UNMAP ? munmap(at, ranges[i].length) : madvise(at, ranges[i].length, advice);
		if (failed) {
			answer.error = errno;
			break;
		}
		answer.calls++;
	}
	answer.ns = cpu_ns() - start - (start - before);
	prctl(PR_SET_NAME, UNCOUNTED);
	if (answer.ns < 0)
		answer.ns = 0;
	return answer;
}

static int map_at(u64 start, u64 length, int flags, i64 advice)
{
	void *at = mmap((void *)start, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
	if (at != (void *)start) {
		if (at != MAP_FAILED)
			munmap(at, length); /* a kernel before 4.17 ignores the flag */
		return -1;
	}
	if (madvise(at, length, advice) && errno != EINVAL) /* EINVAL: a kernel without huge pages */
		return -1;
	return 0;
}

/* The threads of a point. They meet at `start`, make their calls, and meet at `end`. */
static struct {
	u32 count;
	pthread_barrier_t start, end;
	u64 base;
	const struct range *ranges;
	const u32 *offsets;
	i64 advice;
	char *warm;                    /* a page for each thread, to warm up on */
	struct answer *answers;
} threads;

static void warm_up(u32 number)
{
	for (int i = 0; i < WARM_UPS; i++) {
		madvise(threads.warm + number * page, page, POPULATE_WRITE);
		madvise(threads.warm + number * page, page, MADV_DONTNEED);
	}
}

static void *thread_main(void *argument)
{
	u32 number = (u32)(uintptr_t)argument;
	cpu_set_t all, one;
	if (!sched_getaffinity(0, sizeof all, &all)) {
		int wanted = number % CPU_COUNT(&all), cpu = 0;
		for (; !CPU_ISSET(cpu, &all) || wanted--; cpu++)
			;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof one, &one);
	}
	prctl(PR_SET_NAME, UNCOUNTED);
	for (;;) {
		pthread_barrier_wait(&threads.start);
		u32 first = threads.offsets[number], end = threads.offsets[number + 1];
		warm_up(number);
		threads.answers[number] = make_calls(threads.base, threads.ranges + first, end - first, threads.advice);
		pthread_barrier_wait(&threads.end);
	}
	return NULL;
}

static int start_threads(u32 count)
{
	pthread_attr_t attributes;
	threads.count = count;
	threads.warm = mmap(NULL, count * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	threads.answers = memory(count * sizeof(struct answer));
	if (count == 1)
		return 0;
	pthread_barrier_init(&threads.start, NULL, count + 1);
	pthread_barrier_init(&threads.end, NULL, count + 1);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 256 << 10);
	for (u32 i = 0; i < count; i++) {
		pthread_t thread;
		int error = pthread_create(&thread, &attributes, thread_main, (void *)(uintptr_t)i);
		if (error)
			return error;
	}
	return 0;
}

/* One call per range; thread t makes ranges[offsets[t]] up to ranges[offsets[t + 1]]. */
static struct answer zap(u64 start_at, const struct range *ranges, const u32 *offsets, i64 advice)
{
	struct answer sum = {0};
	if (threads.count == 1) {
		warm_up(0);
		return make_calls(start_at, ranges, offsets[1], advice);
	}
	threads.base = start_at, threads.ranges = ranges, threads.offsets = offsets, threads.advice = advice;
	pthread_barrier_wait(&threads.start);
	pthread_barrier_wait(&threads.end);
	for (u32 i = 0; i < threads.count; i++) {
		sum.ns += threads.answers[i].ns;
		sum.calls += threads.answers[i].calls;
		sum.error = sum.error ? sum.error : threads.answers[i].error;
	}
	return sum;
}

/* Do every kind of step once on a VMA that is unmapped afterwards: the child's own pages and tables exist then. */
static int rehearse(i64 map_advice)
{
	u32 count = threads.count;
	struct range *ranges = memory(count * sizeof *ranges);
	u32 *offsets = memory((count + 1) * sizeof *offsets);
	i64 advices[] = {MADV_FREE, MADV_DONTNEED, ADVISE_UNMAP};
	int error = 0;
	for (u32 i = 0; i <= count; i++) {
		offsets[i] = i;
		if (i < count)
			ranges[i] = (struct range){page * (i + 1), page};
	}
	if (map_at(REHEARSAL_BASE, REHEARSAL_BYTES + count * page, FIXED_NOREPLACE, map_advice))
		return errno;
	madvise((void *)REHEARSAL_BASE, page, GUARD_INSTALL);
	error = make_calls(REHEARSAL_BASE, ranges, count, POPULATE_WRITE).error;
	for (size_t i = 0; i < sizeof advices / sizeof *advices && !error; i++)
		error = zap(REHEARSAL_BASE, ranges, offsets, advices[i]).error;
	munmap((void *)REHEARSAL_BASE, REHEARSAL_BYTES + count * page);
	munmap(ranges, count * sizeof *ranges);
	munmap(offsets, (count + 1) * sizeof *offsets);
	return error;
}

/* Write to each page through its entry, as programs do: MADV_POPULATE_WRITE of a page that is there leaves the entry
 * clean after a MADV_FREE, and the next MADV_FREE would find nothing to flush. */
static void write_pages(const struct array *array)
{
	for (u64 i = 0; i < array->rows; i++)
		for (u64 at = 0; at < array->ranges[i].length; at += page)
			*(volatile char *)(base + array->ranges[i].start + at) = 1;
}

static void child_begin(u32 thp_disable)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_THP_DISABLE, thp_disable, 0, 0, 0);
	prctl(PR_SET_NAME, UNCOUNTED);
	write_text("/proc/self/oom_score_adj", "1000", 4);
}

static void play_point(const struct point *p, const struct array *arrays, const struct round *rounds, const u32 *offsets,
		       int go, int done)
{
	struct answer answer = {0};
	char byte;
	child_begin(1);
	answer.error = start_threads(p->threads);
	for (int i = 0; i < 2 && !answer.error; i++)
		answer.error = rehearse(p->map_advice);
	prctl(PR_SET_THP_DISABLE, p->thp_disable, 0, 0, 0);
	if (!answer.error && map_at(base, p->virt, FIXED_NOREPLACE, p->map_advice))
		answer.error = ENOMEM, answer.calls = -1;
	is_counted = 1;
	(void)!write(done, &answer, sizeof answer);
	for (u32 n = 0; n < p->rounds; n++) {
		const struct round *r = rounds + n;
		const struct array *holes = arrays + r->holes, *installs = arrays + r->installs;
		if (read(go, &byte, 1) != 1)
			return;
		answer = (struct answer){0};
		for (u64 i = 0; i < holes->rows && !answer.error; i++)
			if (map_at(base + holes->ranges[i].start, holes->ranges[i].length, MAP_FIXED, p->map_advice))
				answer.error = errno;
		if (!answer.error && (!n || p->zap_advice == ADVISE_UNMAP))
			answer = make_calls(base, arrays->ranges, arrays->rows, GUARD_INSTALL);
		if (!answer.error)
			answer = make_calls(base, installs->ranges, installs->rows, POPULATE_WRITE);
		if (!answer.error)
			write_pages(installs);
		(void)!write(done, &answer, sizeof answer);
		if (read(go, &byte, 1) != 1)
			return;
		answer = zap(base, arrays[r->calls].ranges, offsets + r->at, p->zap_advice);
		(void)!write(done, &answer, sizeof answer);
	}
	(void)!read(go, &byte, 1);
}

/* One operation of a recording. Returns its errno; 0 for touches, which skip pages that they cannot access. */
static int play_step(const struct step *s)
{
	void *at = (void *)s->start;
	u64 last = -1;
	switch (s->kind) {
	case STEP_MMAP:
		return mmap(at, s->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at ? 0 : errno;
	case STEP_MUNMAP:
		return munmap(at, s->length) ? errno : 0;
	case STEP_MPROTECT:
		return mprotect(at, s->length, s->argument) ? errno : 0;
	case STEP_MADVISE:
		return madvise(at, s->length, s->argument) ? errno : 0;
	case STEP_TOUCH:
		for (u64 a = s->start; a < s->start + s->length; a += s->stride)
			if (a / page != last) {
				last = a / page;
				/* A byte that is not zero: when a huge page is split, pages of zeros become the zero page. */
				if (!madvise((void *)(last * page), page, s->argument) && s->argument == POPULATE_WRITE)
					*(volatile char *)a = 1;
			}
		return 0;
	}
	return ENOSYS;
}

static void play_recording(const struct recording *r, const struct step *steps, int go, int done)
{
	struct answer answer = {0};
	char byte;
	child_begin(0);
	for (u32 i = 0; i < r->steps; i++) /* once, so that the child's own memory does not grow later */
		play_step(steps + i);
	for (u32 i = 0; i < r->steps; i++)
		if (steps[i].kind == STEP_MMAP)
			munmap((void *)steps[i].start, steps[i].length);
	(void)!write(done, &answer, sizeof answer);
	for (u32 i = 0; i < r->steps && read(go, &byte, 1) == 1; i++) {
		answer.error = play_step(steps + i);
		(void)!write(done, &answer, sizeof answer);
	}
	(void)!read(go, &byte, 1);
}

/* ---- what the parent does ---- */

static pid_t child;
static int go_pipe, done_pipe;

static int start_child(int *go, int *done)
{
	int to_child[2], from_child[2];
	if (pipe(to_child) || pipe(from_child) || (child = fork()) < 0) {
		say("error cannot start a child: %s", strerror(errno));
		return -1;
	}
	if (!child) {
		close(to_child[1]), close(from_child[0]);
		*go = to_child[0], *done = from_child[1];
		return 0;
	}
	close(to_child[0]), close(from_child[1]);
	go_pipe = to_child[1], done_pipe = from_child[0];
	return 1;
}

/* Wait for the child's answer. Returns whether it came; if not, says why. */
static int await(struct answer *answer, const char *what)
{
	int status;
	if (read(done_pipe, answer, sizeof *answer) == sizeof *answer) {
		if (answer->error && what)
			say("error %s: %s after %d calls", what, strerror(answer->error), answer->calls);
		return !(answer->error && what);
	}
	waitpid(child, &status, 0);
	child = 0;
	say("lost %d", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	return 0;
}

static void end_child(void)
{
	close(go_pipe), close(done_pipe);
	if (child) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	child = 0;
}

/* A variable-length number: 7 bits a byte, the lowest first; the top bit is set in all bytes but the last. */
static u64 unpack(const unsigned char **at)
{
	u64 value = 0;
	int shift = 0;
	for (; **at & 128; shift += 7)
		value |= (u64)(*(*at)++ & 127) << shift;
	return value | (u64)*(*at)++ << shift;
}

/* An array: its rows, its bytes, and these: for each range, as variable-length numbers of pages, the distance of its
 * start from the end of the one before (zigzag) and its length. */
static void take_array(struct array *array)
{
	u64 bytes, end = 0;
	array->rows = take_number();
	bytes = take_number();
	unsigned char *packed = memory(bytes);
	const unsigned char *at = packed;
	array->ranges = memory(array->rows * sizeof(struct range));
	if (!packed || !array->ranges)
		power_off();
	take(packed, bytes);
	for (u64 i = 0; i < array->rows; i++) {
		u64 distance = unpack(&at);
		array->ranges[i].start = end + (distance >> 1 ^ -(distance & 1)) * page;
		array->ranges[i].length = unpack(&at) * page;
		end = array->ranges[i].start + array->ranges[i].length;
	}
	munmap(packed, bytes ? bytes : 1);
}

/* Say which slots hold an entry. Only slots with an install or a marker can: the others are not looked at. */
static void say_slots_left(const struct point *p, const struct array *arrays, const struct round *rounds)
{
	u64 entries = page / 8, span = page * entries, slots = (p->virt + span - 1) / span, run = -1;
	unsigned char *touched = calloc(slots / 8 + 1, 1);
	u64 *words = malloc(page);
	char path[64];
	for (u32 n = 0; n <= p->rounds; n++) {
		const struct array *array = n ? arrays + rounds[n - 1].installs : arrays;
		for (u64 i = 0; i < array->rows; i++) {
			u64 end = array->ranges[i].start + array->ranges[i].length;
			for (u64 slot = array->ranges[i].start / span; slot * span < end; slot++)
				touched[slot / 8] |= 1 << slot % 8;
		}
	}
	snprintf(path, sizeof path, "/proc/%d/pagemap", child);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	for (u64 slot = 0; slot <= slots; slot++) {
		int holds = 0;
		if (slot < slots && touched[slot / 8] >> slot % 8 & 1) {
			ssize_t n = pread(file, words, page, (base / page + slot * entries) * 8);
			for (ssize_t i = 0; i < n / 8 && !holds; i++)
				holds = words[i] >> 62 != 0; /* bit 63: present; 62: swapped, or a marker */
		}
		if (holds && run == (u64)-1)
			run = slot;
		if (!holds && run != (u64)-1) {
			say("left %llu %llu", (unsigned long long)run, (unsigned long long)slot);
			run = -1;
		}
	}
	close(file);
	free(touched);
	free(words);
}

static void say_half(struct figures before, i64 ns)
{
	struct figures now = read_figures(child);
	say("half %lld %lld %lld %lld %lld", (long long)(now.vm_pte - before.vm_pte), (long long)(now.rss - before.rss),
	    (long long)(now.vm_rss - before.vm_rss), (long long)(now.anon_huge - before.anon_huge), (long long)ns);
}

static void answer_point(void)
{
	struct point p;
	take(&p, sizeof p);
	struct array *arrays = memory(p.arrays * sizeof *arrays);
	struct round *rounds = memory(p.rounds * sizeof *rounds);
	u32 *offsets = memory((u64)p.rounds * (p.threads + 1) * sizeof *offsets);
	if (!arrays || !rounds || !offsets)
		power_off();
	take(rounds, p.rounds * sizeof *rounds);
	take(offsets, (u64)p.rounds * (p.threads + 1) * sizeof *offsets);
	for (u32 i = 0; i < p.arrays; i++)
		take_array(arrays + i);

	int go, done, is_parent = start_child(&go, &done);
	if (!is_parent) {
		play_point(&p, arrays, rounds, offsets, go, done);
		_exit(0);
	}
	struct answer answer;
	if (is_parent > 0 && await(&answer, NULL)) {
		if (answer.calls < 0)
			say("no_space");
		else if (answer.error)
			say("error rehearsal: %s", strerror(answer.error));
		else {
			struct figures before = read_figures(child);
			int ok = 1;
			say("ready");
			for (u32 n = 0; n < 2 * p.rounds && ok; n++) {
				ok = write(go_pipe, "g", 1) == 1 && await(&answer, n % 2 ? "zap" : "install");
				if (ok)
					say_half(before, answer.ns);
			}
			if (ok) {
				say_slots_left(&p, arrays, rounds);
				say("done");
			}
		}
	}
	if (is_parent > 0)
		end_child();
	for (u32 i = 0; i < p.arrays; i++)
		munmap(arrays[i].ranges, arrays[i].rows ? arrays[i].rows * sizeof(struct range) : 1);
	munmap(arrays, p.arrays * sizeof *arrays);
	munmap(rounds, p.rounds * sizeof *rounds);
	munmap(offsets, (u64)p.rounds * (p.threads + 1) * sizeof *offsets);
}

static void answer_recording(void)
{
	struct recording r;
	take(&r, sizeof r);
	struct step *steps = memory(r.steps * sizeof *steps);
	if (!steps)
		power_off();
	take(steps, r.steps * sizeof *steps);
	int go, done, is_parent = start_child(&go, &done);
	if (!is_parent) {
		play_recording(&r, steps, go, done);
		_exit(0);
	}
	struct answer answer;
	int ok = is_parent > 0 && await(&answer, NULL);
	for (u32 i = 0; i < r.steps && ok; i++) {
		ok = write(go_pipe, "g", 1) == 1 && await(&answer, NULL);
		if (ok) {
			struct figures f = read_figures(child);
			say("step %d %lld %lld %lld", answer.error, (long long)f.vm_pte, (long long)f.rss, (long long)f.anon_huge);
		}
	}
	if (ok)
		say("done");
	if (is_parent > 0)
		end_child();
	munmap(steps, r.steps ? r.steps * sizeof *steps : 1);
}

/* ---- the start ---- */

/* Modules that the archive brings: the drivers of the virtio port, of a kernel that has not got them built in. */
static void load_modules(void)
{
	char path[32];
	int file;
	for (int i = 0; snprintf(path, sizeof path, "/modules/%d.ko", i), (file = open(path, O_RDONLY)) >= 0; i++) {
		if (syscall(SYS_finit_module, file, "", 0))
			printf("agent: %s: %s\n", path, strerror(errno));
		close(file);
	}
}

/* Whether a virtio device was found: then its port appears in a while. */
static int has_virtio_device(void)
{
	DIR *devices = opendir("/sys/bus/virtio/devices");
	int entries = 0;
	while (devices && readdir(devices))
		entries++;
	if (devices)
		closedir(devices);
	return entries > 2; /* beside . and .. */
}

/* Find the virtio port. Returns whether there is one. */
static int find_virtio_port(unsigned *major_number, unsigned *minor_number)
{
	char path[64], text[64];
	for (int tries = 0; tries < 1000 && has_virtio_device(); tries++) {
		for (int i = 0; i < 2; i++) { /* the first port is 0 or 1, by QEMU's version */
			snprintf(path, sizeof path, "/sys/class/virtio-ports/vport0p%d/dev", i);
			if (sscanf(read_text(path, text, sizeof text), "%u:%u", major_number, minor_number) == 2)
				return 1;
		}
		usleep(20000);
	}
	return 0;
}

/* The virtio port, or else the second serial port, which is far slower. */
static void open_channel(void)
{
	unsigned major_number = 4, minor_number = 65; /* ttyS1 */
	struct termios raw;
	find_virtio_port(&major_number, &minor_number);
	mknod("/channel", S_IFCHR | 0600, makedev(major_number, minor_number));
	for (int tries = 0; tries < 250; tries++) { /* a port may be there before it can be opened */
		channel = open("/channel", O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (channel >= 0)
			break;
		usleep(20000);
	}
	if (channel < 0)
		printf("agent: neither a virtio port nor a second serial port (%s): CONFIG_VIRTIO_CONSOLE and "
		       "CONFIG_VIRTIO_PCI, or CONFIG_SERIAL_8250, are needed\n", strerror(errno));
	else if (!tcgetattr(channel, &raw)) {
		cfmakeraw(&raw);
		cfsetspeed(&raw, B115200);
		tcsetattr(channel, TCSANOW, &raw);
	}
}

static int supports(int advice)
{
	char *at = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int failed = madvise(at, page, advice);
	munmap(at, page);
	return !failed;
}

static int has_fifth_level(void)
{
	void *high = (void *)(1ull << 48), *at;
	at = mmap(high, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | FIXED_NOREPLACE, -1, 0);
	if (at != MAP_FAILED)
		munmap(at, page);
	return at == high;
}

static void say_hello(void)
{
	struct utsname name;
	char thp[64], map_count[32], memory_text[2048], status[4096];
	uname(&name);
	read_text(THP "enabled", thp, sizeof thp);
	read_text("/proc/sys/vm/max_map_count", map_count, sizeof map_count);
	read_text("/proc/meminfo", memory_text, sizeof memory_text);
	read_text("/proc/self/status", status, sizeof status);
	char *open_at = strchr(thp, '['), *close_at = strchr(thp, ']');
	if (close_at)
		*close_at = 0;
	say("hello release=%s machine=%s page_bytes=%llu thp=%s max_map_count=%ld cpus=%ld populate=%d guards=%d "
	    "fifth_level=%d counts_entries=%d vm_pte=%lld tracefs=%d", name.release, name.machine, (unsigned long long)page,
	    open_at ? open_at + 1 : "absent", atol(map_count), sysconf(_SC_NPROCESSORS_ONLN), supports(POPULATE_WRITE),
	    supports(GUARD_INSTALL), has_fifth_level(), read_figures(getpid()).rss >= 0,
	    (long long)number_after(status, "VmPTE:"), !access("/sys/kernel/tracing/kprobe_events", W_OK));
}

int main(void)
{
	struct sched_param priority = {.sched_priority = 1};
	char command;
	page = sysconf(_SC_PAGESIZE);
	/* A PUD table of 16 KiB maps 128 TiB, which is all that a program gets unless it asks for a higher address. */
	base = page == 16384 && has_fifth_level() ? HIGH_BASE : BASE;
	setvbuf(stdout, NULL, _IONBF, 0);
	if (getpid() != 1) {
		fprintf(stderr, "agent: runs as init of a guest\n");
		return 2;
	}
	mkdir("/proc", 0755), mkdir("/sys", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL))
		printf("agent: /proc cannot be mounted: CONFIG_PROC_FS is needed\n");
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
	/* Nothing else is to run while a point does: a reschedule turns fast paths into slow ones. */
	write_text("/proc/sys/kernel/sched_rt_runtime_us", "-1", 2);
	sched_setscheduler(0, SCHED_FIFO, &priority);
	signal(SIGPIPE, SIG_IGN);
	/* Huge pages are where a point or a recording wants them, and nowhere else: khugepaged never wakes. */
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	write_text(THP "enabled", "madvise", 7);
	write_text(THP "khugepaged/scan_sleep_millisecs", "4294967295", 10);
	load_modules();
	open_channel();
	if (channel < 0)
		power_off();
	say_hello();
	for (;;) {
		take(&command, 1);
		if (command == 'P')
			answer_point();
		else if (command == 'S')
			answer_recording();
		else if (command == 'R')
			answer_file();
		else if (command == 'W')
			write_file();
		else
			power_off();
	}
}
