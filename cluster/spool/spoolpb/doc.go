// Package spoolpb holds the protobuf form of the spool's records and commands.
package spoolpb

//go:generate go run relay/cluster/internal/protogen spool.proto
