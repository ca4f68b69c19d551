/*
 * common.h
 *		What all files know: version, limits, error codes.
 */
#ifndef ES_COMMON_H
#define ES_COMMON_H

#define ES_VERSION "0.2.0"
#define ES_SCHEMA "event_store"

/* Types, ids and keys are at most this many characters long. */
#define ES_MAX_NAME_CHARS 255
/* A payload is at most this many bytes, as a jsonb value is. */
#define ES_MAX_PAYLOAD_BYTES (256 * 1024 * 1024 - 1)
/* Durable rows are written in statements of at most this many rows ... */
#define ES_CHUNK_ROWS 1000
/* ... and about this many bytes, so that one statement stays small. */
#define ES_CHUNK_BYTES (16 * 1024 * 1024)
/* A caller never waits longer than this, in milliseconds. */
#define ES_MAX_TIMEOUT_MS (10 * 60 * 1000)

/* Error codes of our own, VS001 and so on. */
#define ES_ERRCODE_SEQUENCE_CONFLICT MAKE_SQLSTATE('V', 'S', '0', '0', '1')
#define ES_ERRCODE_EVENT_ID_REUSED MAKE_SQLSTATE('V', 'S', '0', '0', '2')
#define ES_ERRCODE_APPEND_ONLY MAKE_SQLSTATE('V', 'S', '0', '0', '3')
#define ES_ERRCODE_STAGING_FULL MAKE_SQLSTATE('V', 'S', '0', '0', '4')
#define ES_ERRCODE_AGGREGATE_CLOSED MAKE_SQLSTATE('V', 'S', '0', '0', '5')
#define ES_ERRCODE_DEAD_LETTERS MAKE_SQLSTATE('V', 'S', '0', '0', '6')
#define ES_ERRCODE_LEASE_LOST MAKE_SQLSTATE('V', 'S', '0', '0', '7')
#define ES_ERRCODE_VIEW_KEPT MAKE_SQLSTATE('V', 'S', '0', '0', '8')
#define ES_ERRCODE_TOO_MANY_HOPS MAKE_SQLSTATE('V', 'S', '0', '1', '0')
/* Raised by handlers of steps, which say so that the step has failed. */
#define ES_ERRCODE_STEP_FAILED MAKE_SQLSTATE('V', 'S', '0', '1', '1')

#endif /* ES_COMMON_H */
