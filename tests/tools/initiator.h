/*
 * One iSCSI session on libiscsi that survives the death of its target.
 *
 * libiscsi's own reconnect waits whole seconds between attempts, which would hide how long a fail-over really took.
 * So the session is rebuilt here: when the connection is lost every unanswered command comes back to its owner as
 * IO_LOST, the login is tried again every RETRY_MS under the same initiator name and ISID (RFC 7143 6.3.5, session
 * reinstatement: the target must end what is left of the old session), and the owner issues its commands again.
 */
#ifndef BALLAST_TESTS_INITIATOR_H
#define BALLAST_TESTS_INITIATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#define SECTOR 512u

enum io_kind { IO_READ, IO_WRITE, IO_UNMAP, IO_SYNC };
enum io_result { IO_GOOD, IO_LOST, IO_ERROR };

struct initiator;
struct io;
typedef void (*io_done)(struct io *io, enum io_result result);

/* One command. The owner fills the upper half and keeps it until `done` has been called. */
struct io {
	enum io_kind kind;
	uint64_t lba; /* in SECTORs */
	uint32_t sectors;
	bool fua;
	unsigned char *buffer;
	io_done done;
	void *owner;
	/* filled by initiator_submit */
	struct initiator *via;
	struct scsi_task *task;
};

struct initiator {
	/* set by the caller before initiator_start */
	const char *url;
	const char *name; /* NULL: one made of the process id */
	void (*on_ready)(struct initiator *session, void *context); /* after every login */
	void *context;

	/* to read */
	uint64_t capacity; /* in SECTORs; known after the first login */
	bool can_unmap;    /* LBPME and LBPRZ: unmapped blocks read back as zeroes (SBC-3 5.16.2) */
	bool ready;
	uint64_t logins;
	uint64_t unit_attentions;
	char last_error[256];

	/* own */
	struct iscsi_context *iscsi;
	char portal[256], target[256], own_name[128];
	int lun;
	uint32_t isid;
	bool lost, connecting, probed, tearing_down;
	uint32_t outstanding;
	uint64_t try_at, deadline, last_answer, last_ping;
};

uint64_t now_ns(void);

/* Small deterministic generator (splitmix64). */
uint64_t random_next(uint64_t *state);

/* Bytes with an optional binary suffix: 4096, 4k, 1G. Ends the program on anything else. */
uint64_t parse_size(const char *text);

/* Parses the URL and logs in; waits at most `seconds`. False: last_error says why. */
bool initiator_start(struct initiator *session, double seconds);

/* Serves the session for at most `milliseconds`, waking early when `extra_fd` (-1: none) is readable. True: it is. */
bool initiator_poll(struct initiator *session, int extra_fd, int milliseconds);

/* Sends a command of a ready session. Its end is reported through io->done, never from within this call. */
void initiator_submit(struct initiator *session, struct io *io);

/* Logs out when that is possible and frees the session. */
void initiator_stop(struct initiator *session);

#endif
