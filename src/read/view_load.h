/*
 * view_load.h
 *		Reading views.
 */
#ifndef ES_VIEW_LOAD_H
#define ES_VIEW_LOAD_H

/*
 * The value of a key in the read that has begun, in the current memory context;
 * (Datum) 0 = none.
 */
extern Datum es_find_view(Datum view_name, Datum view_key, bool look_in_staging);

#endif /* ES_VIEW_LOAD_H */
