/* See initiator.h. */
#define _GNU_SOURCE
#include "initiator.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000ull
#define RETRY_MS 20
#define LOGIN_MS 5000 /* a login that takes longer is given up and tried again */
#define PING_MS 5000  /* quiet for so long with commands outstanding: NOP-Out (as open-iscsi does) */
#define DEAD_MS 15000 /* still not one answer, not even to the ping: the connection is dead */

uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

uint64_t random_next(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint64_t parse_size(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);
	int shift = 0;

	switch (*end) {
	case 'k': case 'K': shift = 10; end++; break;
	case 'm': case 'M': shift = 20; end++; break;
	case 'g': case 'G': shift = 30; end++; break;
	}
	if (end == text || *end) {
		fprintf(stderr, "not a size: %s (give bytes, or a number with k, M or G)\n", text);
		exit(2);
	}
	return value << shift;
}

static void note_error(struct initiator *s, const char *what)
{
	snprintf(s->last_error, sizeof s->last_error, "%s: %s", what, s->iscsi ? iscsi_get_error(s->iscsi) : "no session");
}

static void disconnect(struct initiator *s)
{
	struct iscsi_context *old = s->iscsi;

	s->ready = s->connecting = false;
	s->lost = false;
	s->try_at = now_ns() + RETRY_MS * MS;
	s->tearing_down = true;
	s->iscsi = NULL;
	if (old)
		iscsi_destroy_context(old); /* ends every command still waiting with SCSI_STATUS_CANCELLED */
	s->tearing_down = false;
}

static void become_ready(struct initiator *s)
{
	s->connecting = false;
	s->ready = true;
	s->logins++;
	s->last_answer = s->last_ping = now_ns();
	if (s->on_ready)
		s->on_ready(s, s->context);
}

static void on_capacity(struct iscsi_context *iscsi, int status, void *data, void *private)
{
	struct initiator *s = private;
	struct scsi_task *task = data;
	struct scsi_readcapacity16 *rc;

	(void)iscsi;
	if (s->tearing_down || status != SCSI_STATUS_GOOD || !task || !(rc = scsi_datain_unmarshall(task))) {
		if (!s->tearing_down) {
			note_error(s, "READ CAPACITY(16) failed");
			s->lost = true;
		}
	} else if (rc->block_length != SECTOR) {
		fprintf(stderr, "the unit has blocks of %u bytes; these tools need 512\n", rc->block_length);
		exit(1);
	} else if (s->probed && rc->returned_lba + 1 != s->capacity) {
		fprintf(stderr, "the unit's capacity changed from %llu to %llu blocks\n", (unsigned long long)s->capacity,
			(unsigned long long)(rc->returned_lba + 1));
		exit(1);
	} else {
		s->capacity = rc->returned_lba + 1;
		s->can_unmap = rc->lbpme && rc->lbprz;
		s->probed = true;
		become_ready(s);
	}
	if (task)
		scsi_free_scsi_task(task);
}

static void on_connected(struct iscsi_context *iscsi, int status, void *data, void *private)
{
	struct initiator *s = private;

	(void)data;
	if (s->tearing_down)
		return;
	if (status != SCSI_STATUS_GOOD || !iscsi_readcapacity16_task(iscsi, s->lun, on_capacity, s)) {
		note_error(s, "login failed");
		s->lost = true;
	}
}

static void connect_now(struct initiator *s)
{
	s->iscsi = iscsi_create_context(s->name);
	if (!s->iscsi) {
		fprintf(stderr, "out of memory\n");
		exit(1);
	}
	iscsi_set_noautoreconnect(s->iscsi, 1);
	iscsi_set_targetname(s->iscsi, s->target);
	iscsi_set_session_type(s->iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(s->iscsi, ISCSI_HEADER_DIGEST_NONE_CRC32C);
	iscsi_set_isid_random(s->iscsi, s->isid, 0);
	s->connecting = true;
	s->deadline = now_ns() + LOGIN_MS * MS;
	if (iscsi_full_connect_async(s->iscsi, s->portal, s->lun, on_connected, s) != 0) {
		note_error(s, "connect failed");
		s->lost = true;
	}
}

static void on_pong(struct iscsi_context *iscsi, int status, void *data, void *private)
{
	struct initiator *s = private;

	(void)iscsi;
	(void)data;
	if (status == SCSI_STATUS_GOOD)
		s->last_answer = now_ns();
	else if (!s->tearing_down)
		s->lost = true;
}

static void check_alive(struct initiator *s)
{
	uint64_t now = now_ns();
	unsigned char ping[4] = "ping";

	if (s->connecting && now > s->deadline) {
		note_error(s, "login not answered");
		s->lost = true;
	}
	if (!s->ready || !s->outstanding)
		return;
	if (now - s->last_answer > DEAD_MS * MS) {
		note_error(s, "connection went silent");
		s->lost = true;
	} else if (now - s->last_answer > PING_MS * MS && now - s->last_ping > PING_MS * MS) {
		s->last_ping = now;
		if (iscsi_nop_out_async(s->iscsi, on_pong, ping, sizeof ping, s))
			s->lost = true;
	}
}

bool initiator_poll(struct initiator *s, int extra_fd, int milliseconds)
{
	struct pollfd fds[2] = { { .fd = -1 }, { .fd = extra_fd, .events = POLLIN } };

	if (!s->iscsi && now_ns() >= s->try_at)
		connect_now(s);
	if (s->iscsi && !s->lost) {
		fds[0].fd = iscsi_get_fd(s->iscsi);
		fds[0].events = (short)iscsi_which_events(s->iscsi);
	} else if (milliseconds > RETRY_MS) {
		milliseconds = RETRY_MS;
	}
	if (poll(fds, 2, milliseconds) < 0)
		return false;
	if (s->iscsi && !s->lost && fds[0].revents && iscsi_service(s->iscsi, fds[0].revents) < 0) {
		note_error(s, "connection failed");
		s->lost = true;
	}
	check_alive(s);
	if (s->lost)
		disconnect(s);
	return fds[1].revents != 0;
}

bool initiator_start(struct initiator *s, double seconds)
{
	struct iscsi_context *parser;
	struct iscsi_url *url;
	uint64_t until = now_ns() + (uint64_t)(seconds * 1e9), seed = now_ns() ^ (uint64_t)getpid() << 32;

	if (!s->name) {
		snprintf(s->own_name, sizeof s->own_name, "iqn.2016-09.io.ballast.tests:load-%d", (int)getpid());
		s->name = s->own_name;
	}
	parser = iscsi_create_context(s->name);
	url = parser ? iscsi_parse_full_url(parser, s->url) : NULL;
	if (!url) {
		snprintf(s->last_error, sizeof s->last_error, "not an iSCSI URL: %s", s->url);
		return false;
	}
	snprintf(s->portal, sizeof s->portal, "%s", url->portal);
	snprintf(s->target, sizeof s->target, "%s", url->target);
	s->lun = url->lun;
	s->isid = (uint32_t)random_next(&seed) & 0xffffff;
	iscsi_destroy_url(url);
	iscsi_destroy_context(parser);
	while (!s->ready && now_ns() < until)
		initiator_poll(s, -1, 100);
	return s->ready;
}

/* Power-on, reset and the like are told once to every session (SAM-5 5.14); the command was not carried out. */
static bool is_unit_attention(const struct scsi_task *task, int status)
{
	return status == SCSI_STATUS_CHECK_CONDITION && task->sense.key == SCSI_SENSE_UNIT_ATTENTION;
}

static void on_io(struct iscsi_context *iscsi, int status, void *data, void *private)
{
	struct io *io = private;
	struct initiator *s = io->via;
	struct scsi_task *task = io->task;
	enum io_result result = IO_GOOD;

	(void)data;
	if (status == SCSI_STATUS_CANCELLED || s->tearing_down) {
		result = IO_LOST;
		if (!s->tearing_down)
			s->lost = true;
	} else {
		s->last_answer = now_ns();
		if (is_unit_attention(task, status)) {
			s->unit_attentions++;
			s->outstanding--;
			scsi_free_scsi_task(task);
			initiator_submit(s, io);
			return;
		}
		bool moves_data = io->kind == IO_READ || io->kind == IO_WRITE;
		if (status != SCSI_STATUS_GOOD || (moves_data && task->residual_status != SCSI_RESIDUAL_NO_RESIDUAL)) {
			result = IO_ERROR;
			snprintf(s->last_error, sizeof s->last_error, "status 0x%x residual %zu: %s", (unsigned)status,
				 task->residual, iscsi_get_error(iscsi));
		}
	}
	s->outstanding--;
	io->task = NULL;
	scsi_free_scsi_task(task);
	io->done(io, result);
}

void initiator_submit(struct initiator *s, struct io *io)
{
	uint32_t bytes = io->sectors * SECTOR;
	struct unmap_list range = { .lba = io->lba, .num = io->sectors };

	io->via = s;
	if (!s->outstanding++)
		s->last_answer = now_ns();
	if (io->kind == IO_UNMAP) {
		io->task = iscsi_unmap_task(s->iscsi, s->lun, 0, 0, &range, 1, on_io, io);
		if (io->task)
			return;
	} else {
		switch (io->kind) {
		case IO_READ:
			io->task = scsi_cdb_read16(io->lba, bytes, SECTOR, 0, 0, 0, 0, 0);
			break;
		case IO_WRITE:
			io->task = scsi_cdb_write16(io->lba, bytes, SECTOR, 0, 0, io->fua, 0, 0);
			break;
		default:
			io->task = scsi_cdb_synchronizecache10(0, 0, 0, 0);
			break;
		}
		if (io->task && io->kind == IO_READ)
			scsi_task_add_data_in_buffer(io->task, (int)bytes, io->buffer);
		if (io->task && io->kind == IO_WRITE)
			scsi_task_add_data_out_buffer(io->task, (int)bytes, io->buffer);
		if (io->task && iscsi_scsi_command_async(s->iscsi, s->lun, io->task, on_io, NULL, io) == 0)
			return;
	}
	fprintf(stderr, "cannot queue a command: %s\n", iscsi_get_error(s->iscsi));
	exit(1);
}

void initiator_stop(struct initiator *s)
{
	if (s->ready && !s->lost && !s->outstanding) {
		iscsi_set_timeout(s->iscsi, 5);
		iscsi_logout_sync(s->iscsi);
	}
	disconnect(s);
}
