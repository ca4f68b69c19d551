/*
 * consume.c
 *		What every call of a consumer begins with.
 *
 * That something was consumed is durable with the transaction, and so has to be
 * all else that the transaction does: were its events staged, and lost in a
 * crash, nobody would do the work again.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "consume/consume.h"
#include "ground/catalog.h"
#include "ground/transaction.h"
#include "staging/flush.h"
#include "staging/own_rows.h"

void
es_begin_consuming(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	(void) es_store();
}

void
es_consume_durably(void)
{
	es_note_write();
	es_move_own_rows();
	es_note_durable_write();
}
