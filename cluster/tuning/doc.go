// Package tuning has the numbers that a node runs by: Tuning and its defaults, raft's
// configuration with the guards against raft's faults, and what changes while raft
// runs: how long raft waits for its leader (Pace), and how many entries stay behind a
// snapshot (Reloader).
package tuning
