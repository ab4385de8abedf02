package spool

import pb "relay/cluster/spool/spoolpb"

// Twin reports whether a message with this key was accepted lately, as of a time
// in Unix milliseconds: an Accept with the key would most likely be a DUPLICATE.
func (v View) Twin(key []byte, at int64) (bool, error) {
	for generation := at/TwinMs + 1; generation >= at/TwinMs-1; generation-- {
		one, ok, err := load(v.R, keyTwin(generation, key), new(pb.Twin))
		if err != nil || ok && at-one.AtMs < TwinMs {
			return ok, err
		}
	}
	return false, nil
}
