/*
 * checkload: a load that knows what every sector must hold.
 *
 *   checkload --url iscsi://HOST:PORT/IQN/LUN [--seed N] [--depth 32] [--span 256M] [--seconds 0] [--mix 45:50:5]
 *             [--state FILE] [--load-state] [--stuck-after 100] [--allow-torn] [--paused]
 *
 * The unit must be all zeroes at the start, unless --load-state says to go on from the table that an earlier run left in
 * the --state FILE. Reads, writes and unmaps (--mix, per cent) of random size and place, --depth at a time. Writes that
 * overlap are never in flight together; everything else is. Every 512-byte sector that is written carries
 *
 *     0        8       16       24      28      32                                 512
 *     | magic  | seed  | lba    | gen   | 0     | pseudo-random bytes of the three  |
 *
 * where the generation counts the writes and unmaps of that sector. A read is right when each of its sectors is of a
 * generation between the oldest that may still be seen when it was issued (the last answered one, or a later one that
 * some read has already returned) and the newest issued before it ended. Anything older is LOST, a mixture of such
 * generations TORN (a fault, unless --allow-torn is given: a target over a page cache cannot help it), anything else WRONG.
 *
 * When the target dies, the session is built again (initiator.c) and what was not answered is issued again.
 *
 * Commands on stdin, each answered by one line of JSON on stdout: stats, mark (starts a new "gap_since_mark_ms"), pause
 * (answered when nothing is in flight), resume, save (needs pause), verify-all (needs pause), quit. The end of stdin is a
 * quit. The last line is always the result ("event":"result"). Exit status 0: no error, nothing lost, nothing wrong.
 */
#define _GNU_SOURCE
#include "initiator.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_SECTORS 256u /* 128 KiB */
#define MAX_DEPTH 256u
#define MAGIC 0x44414f4c4b434842ull /* "BHCKLOAD" */
#define STATE_MAGIC 0x3145544154534b43ull
#define NS_PER_MS 1e6
#define REPORTED_FAULTS 20

/* What is known of one sector. Generation 0 is the zeroes that were there at the start. */
struct sector {
	uint32_t floor;   /* the oldest generation that a read issued now may return */
	uint32_t latest;  /* the newest generation ever issued */
	uint32_t zeroes;  /* bit g % 32: generation g is an unmap (kept for the last 32) */
	uint32_t writing; /* a write or unmap is in flight */
};

struct slot {
	struct io io;
	enum { FREE, IN_FLIGHT, TO_REISSUE } state;
	bool stuck; /* has been counted as never answered */
	uint64_t begun;
	uint32_t floors[MAX_SECTORS]; /* of a read: each sector's floor when it was issued */
};

static struct {
	const char *state_file;
	uint64_t seed, span;
	unsigned depth, read_part, write_part;
	double seconds;
	uint64_t stuck_after;
	bool load_state, torn_allowed;
} options = { .seed = 1, .depth = 32, .span = 256 << 20, .read_part = 45, .write_part = 50, .stuck_after = 100 };

static struct {
	uint64_t reads, writes, unmaps, bytes_read, bytes_written, reissued;
	uint64_t errors, stuck, lost, wrong, torn, verified;
	uint64_t longest_gap, longest_command, gap_since_mark;
} counts;

static struct initiator session;
static struct slot slots[MAX_DEPTH];
static struct sector *sectors;
static uint64_t random_state, last_end, started;
static unsigned in_flight;
static bool paused, verifying, quitting;
static uint64_t verify_next; /* the next sector that verify-all reads */

static bool is_zero_generation(const struct sector *s, uint32_t generation)
{
	return s->zeroes >> (generation % 32) & 1;
}

static void fill_sector(unsigned char *to, uint64_t lba, uint32_t generation)
{
	uint64_t words[SECTOR / 8] = { MAGIC, options.seed, lba, generation };
	uint64_t state = options.seed ^ lba * 0x9e3779b97f4a7c15ull ^ (uint64_t)generation << 40;

	for (unsigned i = 4; i < SECTOR / 8; i++)
		words[i] = random_next(&state);
	memcpy(to, words, SECTOR);
}

static void report_fault(const char *what, uint64_t lba, uint32_t from, uint32_t to, const char *found)
{
	if (counts.lost + counts.wrong + counts.torn <= REPORTED_FAULTS)
		fprintf(stderr, "%s: sector %llu: expected generation %u..%u, found %s\n", what, (unsigned long long)lba, from, to,
			found);
}

/* Is every word of the sector from one of the generations that it may be of? */
static bool is_mixture(const unsigned char *data, uint64_t lba, uint32_t from, uint32_t to)
{
	unsigned char one[SECTOR];
	bool known[SECTOR / 8] = { false };
	unsigned words = 0;

	if (to - from >= 32)
		return false;
	for (uint32_t generation = from; generation <= to; generation++) {
		if (is_zero_generation(&sectors[lba], generation))
			memset(one, 0, sizeof one);
		else
			fill_sector(one, lba, generation);
		for (unsigned i = 0; i < SECTOR / 8; i++)
			if (!known[i] && !memcmp(data + i * 8, one + i * 8, 8)) {
				known[i] = true;
				words++;
			}
	}
	return words == SECTOR / 8;
}

/* Judges one sector that a read returned; `from` is its floor when the read was issued. */
static void check_sector(const unsigned char *data, uint64_t lba, uint32_t from)
{
	static const unsigned char nothing[SECTOR];
	struct sector *s = &sectors[lba];
	unsigned char expected[SECTOR];
	uint64_t words[4];
	uint32_t seen;
	char found[160];

	if (memcmp(data, nothing, SECTOR) == 0) {
		/* zeroes of which generation cannot be told: take the oldest that fits */
		seen = from;
		if (s->latest - from < 32)
			while (seen <= s->latest && !is_zero_generation(s, seen))
				seen++;
		if (seen > s->latest) {
			counts.lost++;
			report_fault("LOST", lba, from, s->latest, "zeroes");
			return;
		}
	} else {
		memcpy(words, data, sizeof words);
		seen = (uint32_t)words[3];
		fill_sector(expected, lba, seen);
		if (memcmp(data, expected, SECTOR) != 0 && is_mixture(data, lba, from, s->latest)) {
			counts.torn++;
			if (!options.torn_allowed)
				report_fault("TORN", lba, from, s->latest, "a mixture of them");
			return;
		}
		if (memcmp(data, expected, SECTOR) != 0 || seen > s->latest) {
			counts.wrong++;
			snprintf(found, sizeof found, "%s, seed %llu lba %llu generation %u%s",
				 words[0] == MAGIC ? "a sector" : "foreign bytes", (unsigned long long)words[1],
				 (unsigned long long)words[2], seen, seen > s->latest ? " (never issued)" : "");
			report_fault("WRONG", lba, from, s->latest, found);
			return;
		}
		if (seen < from) {
			counts.lost++;
			snprintf(found, sizeof found, "generation %u", seen);
			report_fault("LOST", lba, from, s->latest, found);
			return;
		}
	}
	if (seen > s->floor)
		s->floor = seen; /* once seen, it may not go back */
}

static void issue(struct slot *slot)
{
	if (slot->io.kind == IO_READ)
		for (uint32_t i = 0; i < slot->io.sectors; i++)
			slot->floors[i] = sectors[slot->io.lba + i].floor;
	slot->state = IN_FLIGHT;
	initiator_submit(&session, &slot->io);
}

static void on_done(struct io *io, enum io_result result)
{
	struct slot *slot = io->owner;
	uint64_t now = now_ns();

	if (result == IO_LOST) {
		slot->state = TO_REISSUE;
		return;
	}
	if (now - last_end > counts.longest_gap)
		counts.longest_gap = now - last_end;
	if (now - last_end > counts.gap_since_mark)
		counts.gap_since_mark = now - last_end;
	if (now - slot->begun > counts.longest_command)
		counts.longest_command = now - slot->begun;
	last_end = now;
	if (result == IO_ERROR && ++counts.errors <= REPORTED_FAULTS)
		fprintf(stderr, "ERROR: command %d at sector %llu, %u sectors: %s\n", io->kind, (unsigned long long)io->lba,
			io->sectors, session.last_error);
	for (uint32_t i = 0; i < io->sectors; i++) {
		struct sector *s = &sectors[io->lba + i];
		if (io->kind == IO_READ) {
			if (result == IO_GOOD)
				check_sector(io->buffer + (size_t)i * SECTOR, io->lba + i, slot->floors[i]);
			continue;
		}
		s->writing = 0;
		if (result == IO_GOOD)
			s->floor = s->latest; /* after an error both the old and the new one may be there */
	}
	if (result == IO_GOOD) {
		uint64_t bytes = (uint64_t)io->sectors * SECTOR;
		if (io->kind == IO_READ)
			counts.reads++, counts.bytes_read += bytes;
		else if (io->kind == IO_WRITE)
			counts.writes++, counts.bytes_written += bytes;
		else
			counts.unmaps++;
	}
	slot->state = FREE;
	in_flight--;
}

static uint64_t below(uint64_t limit)
{
	return random_next(&random_state) % limit;
}

/* Half of the commands are one block; one in eight neither starts nor ends on a block of 4 KiB. */
static void choose_place(struct io *io)
{
	static const uint32_t sizes[] = { 8, 8, 8, 8, 16, 32, 64, 128, 256 };
	uint64_t within = options.span / SECTOR, hot = within / 32;

	if (hot >= MAX_SECTORS && below(4) == 0)
		within = hot; /* a quarter of the load on a thirty-second of the span: many overwrites */
	if (below(8) == 0) {
		io->sectors = 1 + (uint32_t)below(64);
		io->lba = below(within - io->sectors + 1);
	} else {
		io->sectors = sizes[below(sizeof sizes / sizeof *sizes)];
		io->lba = below((within - io->sectors) / 8 + 1) * 8;
	}
}

static bool may_write(const struct io *io)
{
	for (uint32_t i = 0; i < io->sectors; i++)
		if (sectors[io->lba + i].writing)
			return false;
	return true;
}

static void begin(struct slot *slot)
{
	struct io *io = &slot->io;
	uint64_t part = below(100);
	int tries = 0;

	io->kind = part < options.read_part                       ? IO_READ
		   : part < options.read_part + options.write_part ? IO_WRITE
								   : IO_UNMAP;
	if (io->kind == IO_UNMAP && !session.can_unmap)
		io->kind = IO_WRITE;
	do {
		choose_place(io);
	} while (io->kind != IO_READ && !may_write(io) && ++tries < 16);
	if (io->kind != IO_READ && tries == 16)
		io->kind = IO_READ;
	if (io->kind != IO_READ)
		for (uint32_t i = 0; i < io->sectors; i++) {
			struct sector *s = &sectors[io->lba + i];
			uint32_t bit = 1u << (++s->latest % 32);
			s->writing = 1;
			s->zeroes = io->kind == IO_UNMAP ? s->zeroes | bit : s->zeroes & ~bit;
			if (io->kind == IO_WRITE)
				fill_sector(io->buffer + (size_t)i * SECTOR, io->lba + i, s->latest);
		}
	slot->begun = now_ns();
	slot->stuck = false;
	if (!in_flight++)
		last_end = slot->begun; /* a pause of the load is not a gap of the target */
	issue(slot);
}

static void begin_verify(struct slot *slot)
{
	uint64_t left = options.span / SECTOR - verify_next;

	slot->io.kind = IO_READ;
	slot->io.lba = verify_next;
	slot->io.sectors = left < MAX_SECTORS ? (uint32_t)left : MAX_SECTORS;
	verify_next += slot->io.sectors;
	counts.verified += slot->io.sectors;
	slot->begun = now_ns();
	slot->stuck = false;
	if (!in_flight++)
		last_end = slot->begun;
	issue(slot);
}

static void on_ready(struct initiator *s, void *context)
{
	(void)s;
	(void)context;
	for (unsigned i = 0; i < options.depth; i++)
		if (slots[i].state == TO_REISSUE) {
			counts.reissued++;
			issue(&slots[i]);
		}
}

static void find_stuck(void)
{
	uint64_t now = now_ns();

	for (unsigned i = 0; i < options.depth; i++)
		if (slots[i].state != FREE && !slots[i].stuck && now - slots[i].begun > options.stuck_after * 1000000000ull) {
			slots[i].stuck = true;
			counts.stuck++;
			fprintf(stderr, "STUCK: a command at sector %llu has no answer for %llu s\n",
				(unsigned long long)slots[i].io.lba, (unsigned long long)options.stuck_after);
		}
}

static bool clean(void)
{
	return counts.errors + counts.stuck + counts.lost + counts.wrong == 0 && (options.torn_allowed || !counts.torn);
}

static void print_counts(const char *event)
{
	uint64_t now = now_ns(), gap = counts.gap_since_mark;
	if (in_flight && now - last_end > gap)
		gap = now - last_end; /* the one that is still open */

	printf("{\"event\":\"%s\",\"ok\":%s,\"seed\":%llu,\"seconds\":%.1f,\"ops\":%llu,\"reads\":%llu,\"writes\":%llu,"
	       "\"unmaps\":%llu,\"bytes_read\":%llu,\"bytes_written\":%llu,\"in_flight\":%u,\"logins\":%llu,\"reissued\":%llu,"
	       "\"unit_attentions\":%llu,\"errors\":%llu,\"stuck\":%llu,\"lost\":%llu,\"wrong\":%llu,\"torn\":%llu,\"verified_sectors\":%llu,"
	       "\"longest_gap_ms\":%.1f,\"gap_since_mark_ms\":%.1f,\"longest_command_ms\":%.1f}\n",
	       event, clean() ? "true" : "false", (unsigned long long)options.seed, (double)(now - started) / 1e9,
	       (unsigned long long)(counts.reads + counts.writes + counts.unmaps), (unsigned long long)counts.reads,
	       (unsigned long long)counts.writes, (unsigned long long)counts.unmaps, (unsigned long long)counts.bytes_read,
	       (unsigned long long)counts.bytes_written, in_flight, (unsigned long long)session.logins,
	       (unsigned long long)counts.reissued, (unsigned long long)session.unit_attentions, (unsigned long long)counts.errors,
	       (unsigned long long)counts.stuck, (unsigned long long)counts.lost, (unsigned long long)counts.wrong,
	       (unsigned long long)counts.torn, (unsigned long long)counts.verified, (double)counts.longest_gap / NS_PER_MS, (double)gap / NS_PER_MS,
	       (double)counts.longest_command / NS_PER_MS);
	fflush(stdout);
}

/* The table's file: magic, seed, span, a sum over the table, then the table. Written beside and renamed. */
struct state_head {
	uint64_t magic, seed, span, sum;
};

static uint64_t table_sum(void)
{
	const uint64_t *words = (const uint64_t *)sectors;
	uint64_t sum = 14695981039346656037ull;

	for (size_t i = 0; i < options.span / SECTOR * sizeof *sectors / 8; i++)
		sum = (sum ^ words[i]) * 1099511628211ull;
	return sum;
}

static void save_state(void)
{
	struct state_head head = { STATE_MAGIC, options.seed, options.span, table_sum() };
	size_t count = options.span / SECTOR;
	char temporary[4096];
	FILE *f;

	if (!options.state_file)
		return;
	snprintf(temporary, sizeof temporary, "%s.new", options.state_file);
	f = fopen(temporary, "wb");
	if (!f || fwrite(&head, sizeof head, 1, f) != 1 || fwrite(sectors, sizeof *sectors, count, f) != count || fclose(f) ||
	    rename(temporary, options.state_file)) {
		fprintf(stderr, "cannot save %s: %s\n", options.state_file, strerror(errno));
		exit(1);
	}
}

static void load_state(void)
{
	struct state_head head;
	size_t count = options.span / SECTOR;
	FILE *f = options.state_file ? fopen(options.state_file, "rb") : NULL;

	if (!f || fread(&head, sizeof head, 1, f) != 1 || fread(sectors, sizeof *sectors, count, f) != count) {
		fprintf(stderr, "cannot load the state: give --state FILE with a table that --span fits\n");
		exit(2);
	}
	fclose(f);
	if (head.magic != STATE_MAGIC || head.span != options.span || head.sum != table_sum()) {
		fprintf(stderr, "%s is damaged or of another span\n", options.state_file);
		exit(2);
	}
	options.seed = head.seed; /* the content depends on it; the order of commands comes from --seed all the same */
	for (size_t i = 0; i < count; i++)
		sectors[i].writing = 0; /* left in flight: its generations stay allowed until one of them is seen */
}

static void command(const char *line)
{
	if (!strcmp(line, "stats")) {
		print_counts("stats");
	} else if (!strcmp(line, "mark")) {
		print_counts("mark");
		counts.gap_since_mark = 0;
		last_end = now_ns();
	} else if (!strcmp(line, "resume")) {
		paused = false;
		print_counts("resumed");
	} else if (!strcmp(line, "pause")) {
		paused = true;
	} else if (!strcmp(line, "quit")) {
		quitting = true;
	} else if (!paused || in_flight) {
		fprintf(stderr, "%s needs a pause first\n", line);
		exit(2);
	} else if (!strcmp(line, "save")) {
		save_state();
		print_counts("saved");
	} else if (!strcmp(line, "verify-all")) {
		verifying = true;
		verify_next = 0;
	} else {
		fprintf(stderr, "unknown command: %s\n", line);
		exit(2);
	}
}

/* Takes what stdin holds; false at its end. */
static bool read_commands(void)
{
	static char pending[256];
	static size_t used;
	ssize_t n = read(STDIN_FILENO, pending + used, sizeof pending - 1 - used);
	char *end;

	if (n <= 0)
		return false;
	used += (size_t)n;
	pending[used] = 0;
	while ((end = strchr(pending, '\n'))) {
		*end = 0;
		command(pending);
		used -= (size_t)(end + 1 - pending);
		memmove(pending, end + 1, used + 1);
	}
	return used < sizeof pending - 1;
}

/* Starts what may start and tells when a pause or a verification has come to its end. */
static void keep_going(void)
{
	static bool told_pause;
	bool more = verifying ? verify_next < options.span / SECTOR : !paused && !quitting;

	for (unsigned i = 0; more && session.ready && i < options.depth; i++) {
		if (slots[i].state != FREE)
			continue;
		if (verifying)
			begin_verify(&slots[i]);
		else
			begin(&slots[i]);
		more = verifying ? verify_next < options.span / SECTOR : true;
	}
	if (verifying && !in_flight && verify_next >= options.span / SECTOR) {
		verifying = false;
		print_counts("verified");
	}
	if (!paused)
		told_pause = false;
	if (paused && !in_flight && !verifying && !told_pause) {
		told_pause = true;
		print_counts("paused");
	}
}

static void parse_options(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "url", 1, 0, 'u' },   { "seed", 1, 0, 's' },       { "depth", 1, 0, 'd' },      { "span", 1, 0, 'n' },
		{ "seconds", 1, 0, 't' }, { "mix", 1, 0, 'm' },      { "state", 1, 0, 'f' },      { "load-state", 0, 0, 'l' },
		{ "stuck-after", 1, 0, 'k' }, { "paused", 0, 0, 'p' },
		{ "allow-torn", 0, 0, 'w' }, { 0, 0, 0, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'u': session.url = optarg; break;
		case 's': options.seed = strtoull(optarg, NULL, 0); break;
		case 'd': options.depth = (unsigned)atoi(optarg); break;
		case 'n': options.span = parse_size(optarg); break;
		case 't': options.seconds = atof(optarg); break;
		case 'm':
			if (sscanf(optarg, "%u:%u", &options.read_part, &options.write_part) != 2 ||
			    options.read_part + options.write_part > 100)
				options.depth = 0;
			break;
		case 'f': options.state_file = optarg; break;
		case 'l': options.load_state = true; break;
		case 'k': options.stuck_after = strtoull(optarg, NULL, 0); break;
		case 'p': paused = true; break;
		case 'w': options.torn_allowed = true; break;
		default: options.depth = 0;
		}
	}
	if (!session.url || options.depth < 1 || options.depth > MAX_DEPTH || options.span < MAX_SECTORS * SECTOR ||
	    options.span % 4096 || optind != argc) {
		fprintf(stderr, "usage: see the head of checkload.c (depth 1..%u, span at least 128k and whole blocks)\n", MAX_DEPTH);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	uint64_t checked = 0;

	signal(SIGPIPE, SIG_IGN);
	parse_options(argc, argv);
	sectors = calloc(options.span / SECTOR, sizeof *sectors);
	if (!sectors) {
		fprintf(stderr, "out of memory for the table of %llu sectors\n", (unsigned long long)(options.span / SECTOR));
		return 1;
	}
	random_state = options.seed;
	for (size_t i = 0; i < options.span / SECTOR; i++)
		sectors[i].zeroes = 1;
	if (options.load_state)
		load_state();
	for (unsigned i = 0; i < options.depth; i++) {
		slots[i].io.done = on_done;
		slots[i].io.owner = &slots[i];
		if (posix_memalign((void **)&slots[i].io.buffer, 4096, MAX_SECTORS * SECTOR))
			return 1;
	}
	session.on_ready = on_ready;
	if (!initiator_start(&session, 30)) {
		fprintf(stderr, "cannot log in to %s: %s\n", session.url, session.last_error);
		return 1;
	}
	if (options.span / SECTOR > session.capacity) {
		fprintf(stderr, "the unit is smaller than the span\n");
		return 2;
	}
	started = last_end = now_ns();
	print_counts("started");
	while (!quitting || in_flight) {
		keep_going();
		if (initiator_poll(&session, quitting ? -1 : STDIN_FILENO, 100) && !read_commands())
			quitting = true;
		if (now_ns() - checked > 1000000000ull) {
			checked = now_ns();
			find_stuck();
		}
		if (options.seconds > 0 && (double)(now_ns() - started) / 1e9 > options.seconds)
			quitting = true;
		if (quitting && counts.stuck)
			break; /* do not wait for what will not come */
	}
	save_state();
	print_counts("result");
	if (!in_flight)
		initiator_stop(&session);
	return clean() ? 0 : 1;
}
