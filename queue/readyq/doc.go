// Package readyq holds the entries of a queue in memory and says which to try
// next: a table of small entries, the heap of those that are not due yet, the
// ready lists of each destination, the rings of destinations with something to
// do, and the window of jobs that each destination may have.
//
// It has no lock, no clock and no spool. The caller guards a Queue with a mutex
// of its own and says what time it is, in Unix nanoseconds. No call waits, and
// none looks at more than Slice entries but Put, Drop and Take, which look at
// those of their arguments, and Active and Destinations, which look at all.
package readyq
