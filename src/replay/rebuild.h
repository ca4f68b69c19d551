/*
 * rebuild.h
 *		Views made anew.
 */
#ifndef ES_REBUILD_H
#define ES_REBUILD_H

extern void es_share_rebuilds(void);

#endif /* ES_REBUILD_H */
