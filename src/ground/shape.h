/*
 * shape.h
 *		Whether the store's relations are what the code takes them for.
 */
#ifndef ES_SHAPE_H
#define ES_SHAPE_H

/* At most so many relations make up a store. */
#define ES_SHAPE_PARTS 128

typedef struct Shape
{
	Oid parts[ES_SHAPE_PARTS]; /* all that were looked at */
	int count;
	bool no_store;	  /* there is no log at all */
	char *difference; /* the first one, as a message; NULL = none */
	const char *hint;
} Shape;

/* Compares the store in a schema with ours; returns whether they are alike. */
extern bool es_compare_shape(Oid schema, Shape *shape);

#endif /* ES_SHAPE_H */
