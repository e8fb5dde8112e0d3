/*
 * iobench: measures one pattern of I/O on one iSCSI unit through one session, and prints one line of JSON.
 *
 *   iobench --url iscsi://HOST:PORT/IQN/LUN --rw read|write|randread|randwrite [--bs 4k] [--depth 1] [--seconds 5]
 *           [--span 1G] [--warm 0.5] [--sync none|each|fua] [--pids PID,PID...] [--seed N]
 *   iobench --url URL --prefill [--span 1G]        writes the span once, front to back
 *   --ops N instead of --seconds: exactly so many commands, none before (for counting bytes)
 *
 * --sync each: a SYNCHRONIZE CACHE(10) after every write, in the same slot; the latency is that of the pair.
 * --sync fua: every write carries FUA. The target's CPU time and bytes written are those of --pids (/proc/PID/stat, io).
 * Written data is random, so that nothing can shrink it. Exit status 0: no command failed and no connection was lost.
 */
#define _GNU_SOURCE
#include "initiator.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX_DEPTH 256u
#define MAX_PIDS 64u

/* Latencies in buckets of 1/64 of a power of two: percentiles are right to 1.6 per cent. */
#define STEPS 64u
#define BUCKETS (64u * STEPS)

struct slot {
	struct io io;
	bool busy;
	uint64_t begun;
};

struct cost {
	double client, servers; /* seconds of CPU */
	uint64_t written;       /* bytes that the servers gave to their disks */
};

static struct {
	uint64_t bs, span, seed, ops;
	unsigned depth, pids;
	int pid[MAX_PIDS];
	double seconds, warm;
	bool random, write, sync_each, fua, prefill;
} options = { .bs = 4096, .span = 1ull << 30, .seed = 1, .depth = 1, .seconds = 5, .warm = 0.5 };

static struct initiator session;
static struct slot slots[MAX_DEPTH];
static uint64_t buckets[BUCKETS], measured, latency_sum, latency_max, issued, position, random_state, errors;
static unsigned in_flight;
static bool measuring;

static unsigned bucket(uint64_t value)
{
	unsigned exponent;

	if (value < STEPS)
		return (unsigned)value;
	exponent = 63u - (unsigned)__builtin_clzll(value);
	return (exponent - 5) * STEPS + (unsigned)(value >> (exponent - 6) & (STEPS - 1));
}

static uint64_t bucket_start(unsigned index)
{
	if (index < STEPS)
		return index;
	return (uint64_t)(STEPS + index % STEPS) << (index / STEPS + 5 - 6);
}

static double percentile_us(double part)
{
	uint64_t wanted = (uint64_t)(part * (double)measured), seen = 0;

	for (unsigned i = 0; i < BUCKETS; i++) {
		seen += buckets[i];
		if (buckets[i] && seen > wanted)
			return (double)bucket_start(i) / 1e3;
	}
	return (double)latency_max / 1e3;
}

static struct cost cost_now(void)
{
	struct cost cost = { 0 };
	struct rusage self;

	getrusage(RUSAGE_SELF, &self);
	cost.client = (double)(self.ru_utime.tv_sec + self.ru_stime.tv_sec) +
		      (double)(self.ru_utime.tv_usec + self.ru_stime.tv_usec) / 1e6;
	for (unsigned i = 0; i < options.pids; i++) {
		char path[64], text[1024], *at;
		unsigned long user, system;
		unsigned long long bytes;
		FILE *f;
		size_t n;

		snprintf(path, sizeof path, "/proc/%d/stat", options.pid[i]);
		if ((f = fopen(path, "r"))) {
			n = fread(text, 1, sizeof text - 1, f);
			text[n] = 0;
			fclose(f);
			at = strrchr(text, ')');
			if (at && sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) == 2)
				cost.servers += (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
		}
		snprintf(path, sizeof path, "/proc/%d/io", options.pid[i]);
		if ((f = fopen(path, "r"))) {
			n = fread(text, 1, sizeof text - 1, f);
			text[n] = 0;
			fclose(f);
			at = strstr(text, "\nwrite_bytes: ");
			if (at && sscanf(at, "\nwrite_bytes: %llu", &bytes) == 1)
				cost.written += bytes;
		}
	}
	return cost;
}

static void begin(struct slot *slot)
{
	uint64_t blocks = options.span / options.bs;
	uint64_t block = options.random ? random_next(&random_state) % blocks : position++ % blocks;
	uint64_t *words;

	slot->io.kind = options.write ? IO_WRITE : IO_READ;
	slot->io.lba = block * (options.bs / SECTOR);
	slot->io.sectors = (uint32_t)(options.bs / SECTOR);
	slot->io.fua = options.fua;
	if (options.write) {
		/* one new word a sector: no two writes are alike, and it costs little beside the I/O */
		words = (uint64_t *)slot->io.buffer;
		for (uint64_t i = 0; i < options.bs / 8; i += SECTOR / 8)
			words[i] = random_next(&random_state);
	}
	slot->busy = true;
	slot->begun = now_ns();
	in_flight++;
	issued++;
	initiator_submit(&session, &slot->io);
}

static void on_done(struct io *io, enum io_result result)
{
	struct slot *slot = io->owner;
	uint64_t latency;

	if (result != IO_GOOD) {
		if (!errors++)
			fprintf(stderr, "%s: %s\n", result == IO_LOST ? "connection lost" : "command failed", session.last_error);
	} else if (options.sync_each && io->kind == IO_WRITE) {
		io->kind = IO_SYNC;
		initiator_submit(&session, io);
		return;
	}
	latency = now_ns() - slot->begun;
	if (measuring) {
		unsigned index = bucket(latency);
		buckets[index < BUCKETS ? index : BUCKETS - 1]++;
		measured++;
		latency_sum += latency;
		if (latency > latency_max)
			latency_max = latency;
	}
	slot->busy = false;
	in_flight--;
}

/* Keeps the depth until the time is over or the number of commands is reached, then lets everything end. */
static void run(double seconds, uint64_t ops)
{
	uint64_t until = now_ns() + (uint64_t)(seconds * 1e9);

	issued = 0;
	for (;;) {
		bool more = !errors && (ops ? issued < ops : now_ns() < until);
		for (unsigned i = 0; more && i < options.depth; i++)
			if (!slots[i].busy) {
				begin(&slots[i]);
				more = !ops || issued < ops;
			}
		if (!in_flight)
			return;
		initiator_poll(&session, -1, 100);
	}
}

static void parse_pids(char *list)
{
	for (char *one = strtok(list, ","); one && options.pids < MAX_PIDS; one = strtok(NULL, ","))
		options.pid[options.pids++] = atoi(one);
}

static void parse_options(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "url", 1, 0, 'u' },  { "rw", 1, 0, 'r' },   { "bs", 1, 0, 'b' },      { "depth", 1, 0, 'd' }, { "seconds", 1, 0, 't' },
		{ "span", 1, 0, 'n' }, { "warm", 1, 0, 'w' }, { "sync", 1, 0, 'y' },    { "pids", 1, 0, 'p' },  { "seed", 1, 0, 's' },
		{ "ops", 1, 0, 'o' },  { "prefill", 0, 0, 'f' }, { 0, 0, 0, 0 },
	};
	bool good = true, have_rw = false;
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'u': session.url = optarg; break;
		case 'r':
			options.random = !strncmp(optarg, "rand", 4);
			options.write = !strcmp(optarg + (options.random ? 4 : 0), "write");
			have_rw = options.write || !strcmp(optarg + (options.random ? 4 : 0), "read");
			break;
		case 'b': options.bs = parse_size(optarg); break;
		case 'd': options.depth = (unsigned)atoi(optarg); break;
		case 't': options.seconds = atof(optarg); break;
		case 'n': options.span = parse_size(optarg); break;
		case 'w': options.warm = atof(optarg); break;
		case 'y':
			options.sync_each = !strcmp(optarg, "each");
			options.fua = !strcmp(optarg, "fua");
			good &= options.sync_each || options.fua || !strcmp(optarg, "none");
			break;
		case 'p': parse_pids(optarg); break;
		case 's': options.seed = strtoull(optarg, NULL, 0); break;
		case 'o': options.ops = strtoull(optarg, NULL, 0); break;
		case 'f':
			options.prefill = options.write = have_rw = true;
			options.bs = 131072;
			options.depth = 16;
			break;
		default: good = false;
		}
	}
	if (!good || !session.url || !have_rw || options.depth < 1 || options.depth > MAX_DEPTH || options.bs % SECTOR ||
	    !options.bs || options.span < options.bs || optind != argc) {
		fprintf(stderr, "usage: see the head of iobench.c\n");
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct cost before, after;
	uint64_t from;
	double elapsed, count;

	signal(SIGPIPE, SIG_IGN);
	parse_options(argc, argv);
	if (!initiator_start(&session, 30)) {
		fprintf(stderr, "cannot log in to %s: %s\n", session.url, session.last_error);
		return 1;
	}
	if (options.span / SECTOR > session.capacity) {
		fprintf(stderr, "the unit is smaller than the span\n");
		return 2;
	}
	random_state = options.seed * 0x9e3779b97f4a7c15ull;
	for (unsigned i = 0; i < options.depth; i++) {
		if (posix_memalign((void **)&slots[i].io.buffer, 4096, options.bs))
			return 1;
		for (uint64_t b = 0; b < options.bs / 8; b++)
			((uint64_t *)slots[i].io.buffer)[b] = random_next(&random_state);
		slots[i].io.done = on_done;
		slots[i].io.owner = &slots[i];
	}
	if (options.prefill)
		options.ops = options.span / options.bs;
	if (!options.ops)
		run(options.warm, 0);
	measuring = true;
	before = cost_now();
	from = now_ns();
	run(options.seconds, options.ops);
	elapsed = (double)(now_ns() - from) / 1e9;
	after = cost_now();
	count = measured ? (double)measured : 1;
	printf("{\"iops\":%.1f,\"mb_per_s\":%.2f,\"mean_us\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f,"
	       "\"client_cpu_us\":%.2f,\"server_cpu_us\":%.2f,\"server_bytes_written\":%llu,\"ops\":%llu,\"bytes\":%llu,"
	       "\"seconds\":%.3f,\"errors\":%llu}\n",
	       (double)measured / elapsed, (double)(measured * options.bs) / elapsed / 1e6, (double)latency_sum / count / 1e3,
	       percentile_us(0.5), percentile_us(0.99), percentile_us(0.999), (double)latency_max / 1e3,
	       (after.client - before.client) * 1e6 / count, (after.servers - before.servers) * 1e6 / count,
	       (unsigned long long)(after.written - before.written), (unsigned long long)measured,
	       (unsigned long long)(measured * options.bs), elapsed, (unsigned long long)errors);
	initiator_stop(&session);
	return errors || session.logins != 1;
}
