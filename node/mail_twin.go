package node

import (
	"crypto/sha256"
	"io"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// beginTwin begins the digest by which a message sent again is known. sent is
// what the client has sent so far, before anything was added. A message without
// a Message-ID has nothing that says it is meant to be the same.
func (in *intake) beginTwin(sent []byte) {
	if in.env.origin == "" || in.head.messageID == "" {
		return
	}
	in.twin = sha256.New()
	in.twin.Write(sent)
}

// twinKey is a digest of client, envelope, Message-ID and body; nil for none. to
// are the recipients as the client gave them.
func (in *intake) twinKey(to []string) []byte {
	if in.twin == nil {
		return nil
	}
	to = slices.Sorted(slices.Values(to))
	h := sha256.New()
	for _, s := range []string{in.env.origin, in.env.sender, in.head.messageID, strings.Join(to, "\x00")} {
		_, _ = io.WriteString(h, s)
		h.Write([]byte{0, 0})
	}
	h.Write(in.twin.Sum(nil))
	return h.Sum(nil)[:16]
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
