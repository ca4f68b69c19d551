/*
 * database_command.h
 *		DROP DATABASE and its like.
 */
#ifndef ES_DATABASE_COMMAND_H
#define ES_DATABASE_COMMAND_H

extern void es_utility_hook_install(void); /* while preloading */

#endif /* ES_DATABASE_COMMAND_H */
