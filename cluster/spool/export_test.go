package spool

import "google.golang.org/protobuf/proto"

// Blank makes an empty header of a kind.
func Blank(k Kind) proto.Message { return headers[k]() }

// VersionedNames lists the messages and fields that version.go names.
func VersionedNames() (all []string) {
	for name := range sinceMessage {
		all = append(all, name)
	}
	for name := range sinceField {
		all = append(all, name)
	}
	return all
}

// FirstVersion is the version of a kind of command; 0: there is no such kind.
func FirstVersion(k Kind) uint32 {
	if headers[k] == nil {
		return 0
	}
	return max(1, since[k])
}
