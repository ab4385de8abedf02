package inbound

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// A message that is sent again is the first one (RFC 1047), unless its client has
// surely read that the first was taken: then it is meant twice. So each message
// has a number among those that are the same octets to the same people: 0 for the
// first, and for each that is meant another time one more than that which its
// client has read about. The number goes into the key by which Apply knows a
// repeat. The memory of the node that answered holds which client has read which reply
// (receipts.go); where that is gone, a repeat counts as one.

// errMeantTwice says that the body of a message is lost that turned out to be
// meant another time.
var errMeantTwice = errors.New("the message is meant to be sent once more; it has to come again")

// beginDedup is the stage that makes the digest by which a message sent again is known. It
// is of what the client has sent, before anything is added. A message without a
// Message-ID has nothing that says it is meant to be the same.
func (in *intake) beginDedup(context.Context) error {
	if in.env.origin == "" || in.head.MessageID == "" {
		return nil
	}
	in.dedup, in.owed = sha256.New(), len(in.sent())
	return nil
}

func (in *intake) passDedup(_ context.Context, p []byte) {
	if in.dedup != nil && in.last == nil {
		in.dedup.Write(p)
	}
}

// dedupKey is a digest of client, envelope, Message-ID and body; nil for none. to
// are the recipients as the client gave them.
func (in *intake) dedupKey(to []string) []byte {
	if in.dedup == nil {
		return nil
	}
	to = slices.Sorted(slices.Values(to))
	h := sha256.New()
	for _, s := range []string{in.env.origin, in.env.sender, in.head.MessageID, strings.Join(to, "\x00")} {
		_, _ = io.WriteString(h, s)
		h.Write([]byte{0, 0})
	}
	h.Write(in.dedupDigest())
	return h.Sum(nil)[:16]
}

// numbered is the key of the message that is meant for the time n, from 0.
func numbered(key []byte, n uint32) []byte {
	if n == 0 || key == nil {
		return key
	}
	h := sha256.New()
	h.Write(key)
	h.Write(binary.BigEndian.AppendUint32([]byte("again"), n))
	return h.Sum(nil)[:16]
}

// number finds out the number of this message as far as this node knows, and for
// a body that Apply would drop at a repeat, as far as any node does.
func (in *intake) number(ctx context.Context, key []byte, inline bool) {
	if in.key = key; key == nil {
		return
	}
	in.env.receipt = receipt{}
	n := in.receipts.read(key)
	if !inline && in.isDuplicate(numbered(key, n)) {
		n = max(n, in.receipts.ask(ctx, key))
	}
	in.env.receipt = receipt{key: [16]byte(key), n: n}
}

// again reports whether a message that Apply took for a repeat is one that is
// meant another time: it has a number of its own then.
func (in *intake) again(ctx context.Context, res *pb.Result) bool {
	if in.key == nil || in.asked || string(res.Id) == string(in.id[:]) {
		return false
	}
	in.asked = true
	n := in.receipts.ask(ctx, in.key)
	if n <= in.env.receipt.n {
		return false
	}
	in.env.receipt.n = n
	return true
}

// isDuplicate reports whether this node knows of a message with a key.
func (in *intake) isDuplicate(key []byte) (has bool) {
	err := in.replica.View(func(v spool.View) (err error) {
		has, err = v.Duplicate(key, time.Now().UnixMilli())
		return err
	})
	return has || err != nil
}

// repeated takes over the id under which the message was accepted before.
func (in *intake) repeated(first []byte) {
	if len(first) != len(in.id) || string(first) == string(in.id[:]) {
		return
	}
	again := in.id
	copy(in.id[:], first)
	in.log.Info("sent again", zap.String("id", in.id.String()), zap.String("again", again.String()),
		zap.String("session", in.env.client.GetSession()), zap.String("remote", in.env.client.GetAddress()))
}
