package node

import (
	"time"

	"github.com/oklog/ulid/v2"

	"relay/cluster/spool"
)

// newID makes the id of a message. Its time is the cluster's: ids of all nodes
// sort by acceptance, and a queue tells a message's age by its id.
func newID(now time.Time) spool.ID {
	return ulid.MustNew(ulid.Timestamp(now), ulid.DefaultEntropy())
}
