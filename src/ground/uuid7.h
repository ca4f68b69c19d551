/*
 * uuid7.h
 *		Event ids made here.
 */
#ifndef ES_UUID7_H
#define ES_UUID7_H

#include "utils/uuid.h"

/* A new UUIDv7, greater than all that this backend has made before. */
extern pg_uuid_t *es_uuid7(void);

#endif /* ES_UUID7_H */
