// Package spooltest says in tests what the spool expects of an ordered
// key-value store. Each implementation of spool.Reader and spool.Batch runs it.
package spooltest
