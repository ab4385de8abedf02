package plan

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica/replicatest"
	"relay/queue"
)

func TestReportsWithEightBitsSaySo(t *testing.T) {
	r := replicatest.New(t)
	for text, want := range map[string]pb.Body{
		"Subject: x\r\n\r\nplain\r\n": pb.Body_BODY_7BIT, "Subject: x\r\n\r\nGrüße\r\n": pb.Body_BODY_8BITMIME,
	} {
		n := NewNotice(r, "n1", &queue.Notice{To: "s@far.example", Body: []byte(text)}, false, zap.NewNop())
		require.Equal(t, want, n.Accept.Message.Body)
	}
}
