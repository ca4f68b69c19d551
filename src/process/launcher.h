/*
 * launcher.h
 *		
 */
#ifndef ES_LAUNCHER_H
#define ES_LAUNCHER_H

extern void es_register_launcher(void); /* while preloading */

#endif /* ES_LAUNCHER_H */
