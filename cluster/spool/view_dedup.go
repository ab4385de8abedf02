package spool

import pb "relay/cluster/spool/spoolpb"

// Duplicate reports whether a message with this key was accepted lately, as of a time
// in Unix milliseconds: an Accept with the key would most likely be a DUPLICATE.
func (v View) Duplicate(key []byte, at int64) (bool, error) {
	for generation := at/DedupMs + 1; generation >= at/DedupMs-1; generation-- {
		one, ok, err := load(v.R, keyDedup(generation, key), new(pb.Twin))
		if err != nil || ok && at-one.AtMs < DedupMs {
			return ok, err
		}
	}
	return false, nil
}
