/*
 * settings.h
 *		Every setting.
 */
#ifndef ES_SETTINGS_H
#define ES_SETTINGS_H

#include "fmgr.h"
#include "utils/jsonb.h"

typedef enum Durability
{
	ES_DURABLE,
	ES_STAGED,
	ES_GROUPED /* by the committer, with what others append */
} Durability;

typedef enum OnStagingFull
{
	ES_FULL_DURABLE,
	ES_FULL_BLOCK,
	ES_FULL_ERROR
} OnStagingFull;

/* Of events whose call does not say; "" = none. */
extern char *es_correlation_id;
extern char *es_causation_id;
extern char *es_metadata;
extern Jsonb *es_metadata_members; /* NULL = none */
extern int es_drain_at_shutdown;   /* ms; 0 = off */
extern int es_durability;		   /* Durability */
extern int es_grouped_queue;	   /* kB */
extern int es_max_databases;
extern int es_max_hops;
extern int es_max_workers;		/* 0 = no limit of ours */
extern int es_on_staging_full;	/* OnStagingFull */
extern int es_write_delay;		/* ms */
extern int es_write_batch_size; /* rows */
extern int es_staging_limit;	/* rows; 0 = staging off */
extern bool es_require_expected_sequence;
extern int es_processed_retention;	 /* s; 0 = for ever */
extern int es_dead_letter_retention; /* s; 0 = for ever */
extern int es_projectors;
extern int es_retry_initial;  /* ms */
extern int es_retry_max;	  /* ms */
extern int es_settle_timeout; /* ms */
extern int es_snapshot_every; /* events; 0 = never */

extern void es_define_settings(void);
/* The pause after a first failure, in ms: retry_initial, but at most retry_max. */
extern int es_first_pause(void);
/* Says which settings contradict each other. */
extern void es_warn_of_settings(void);

/* The durability a call asks for; NULL = the setting.  22023 on other words. */
extern Durability es_durability_argument(FunctionCallInfo fcinfo, int argno);

#endif /* ES_SETTINGS_H */
