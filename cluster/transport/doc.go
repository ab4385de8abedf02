// Package transport is raft's network on the shared port: it dials by node id, serves
// each peer's calls behind a filter, and keeps back, or waits with, calls where raft
// would do harm or tire itself out.
package transport
