package statelog

import (
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// StateWord is what the admin API calls a recipient's state.
func StateWord(st pb.State) string {
	switch st {
	case pb.State_QUEUED:
		return admin.StateQueued
	case pb.State_DEFERRED:
		return admin.StateDeferred
	case pb.State_HELD:
		return admin.StateHeld
	case pb.State_SUSPENDED:
		return admin.StateSuspended
	case pb.State_DELIVERED:
		return admin.StateDelivered
	case pb.State_BOUNCED:
		return admin.StateBounced
	case pb.State_EXPIRED:
		return admin.StateExpired
	case pb.State_DELETED:
		return admin.StateDeleted
	}
	return admin.StateRedirected
}
