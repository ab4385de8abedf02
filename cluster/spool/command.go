package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// MaxFrame bounds a frame, header and body, in octets. Every entry of the raft
// log is at most this large (bbolt rewrites neighbours of large values, and a
// large entry delays every small one behind it).
const MaxFrame = 256<<10 + 8<<10

// MaxInline is the largest body that rides in an Accept or a Chunk.
const MaxInline = 256 << 10

// Kind names a command in a frame. Numbers are for ever.
type Kind uint8

// The kinds of command.
const (
	KindAccept      Kind = 1
	KindChunk       Kind = 2
	KindAbort       Kind = 3
	KindSettle      Kind = 4
	KindRegister    Kind = 10
	KindRenew       Kind = 11
	KindExpire      Kind = 12
	KindAdopt       Kind = 13
	KindDrain       Kind = 14
	KindLock        Kind = 20
	KindUnlock      Kind = 21
	KindBreakLock   Kind = 22
	KindRemove      Kind = 23
	KindPutAccount  Kind = 30
	KindDropAccount Kind = 31
	KindPutDomain   Kind = 32
	KindDropDomain  Kind = 33
	KindPutAlias    Kind = 34
	KindDropAlias   Kind = 35
	KindPutRoute    Kind = 36
	KindDropRoute   Kind = 37
	KindPutSettings Kind = 38
	KindManage      Kind = 40
	KindPutCluster  Kind = 50
	KindPutToken    Kind = 51
	KindUseToken    Kind = 52
	KindDropMember  Kind = 53
	KindRaise       Kind = 54
	KindClock       Kind = 55
	KindGeneration  Kind = 56
	KindCertify     Kind = 57
	KindPutCa       Kind = 58
	KindSweep       Kind = 60
	KindMark        Kind = 61
	KindTally       Kind = 70
	KindPutDkim     Kind = 80
	KindDropDkim    Kind = 81
	KindGreet       Kind = 90
	KindPutCert     Kind = 91
	KindDiscard     Kind = 92
	KindPutSecret   Kind = 93
	KindImport      Kind = 94
	KindPutRule     Kind = 95
	KindDropRule    Kind = 96
	KindReseal      Kind = 97

	KindPutRecipients Kind = 98
	KindPutPolicy     Kind = 110
	KindPutTls        Kind = 111
	KindDropTls       Kind = 112

	KindPutSuppressed  Kind = 130
	KindDropSuppressed Kind = 131
)

// headers makes an empty header message of each kind.
var headers = map[Kind]func() proto.Message{
	KindAccept:      func() proto.Message { return new(pb.Accept) },
	KindChunk:       func() proto.Message { return new(pb.Chunk) },
	KindAbort:       func() proto.Message { return new(pb.Abort) },
	KindSettle:      func() proto.Message { return new(pb.Settle) },
	KindRegister:    func() proto.Message { return new(pb.Register) },
	KindRenew:       func() proto.Message { return new(pb.Renew) },
	KindExpire:      func() proto.Message { return new(pb.Expire) },
	KindAdopt:       func() proto.Message { return new(pb.Adopt) },
	KindDrain:       func() proto.Message { return new(pb.Drain) },
	KindLock:        func() proto.Message { return new(pb.TakeLock) },
	KindUnlock:      func() proto.Message { return new(pb.Unlock) },
	KindBreakLock:   func() proto.Message { return new(pb.BreakLock) },
	KindRemove:      func() proto.Message { return new(pb.Remove) },
	KindPutAccount:  func() proto.Message { return new(pb.PutAccount) },
	KindDropAccount: func() proto.Message { return new(pb.DropAccount) },
	KindPutDomain:   func() proto.Message { return new(pb.PutDomain) },
	KindDropDomain:  func() proto.Message { return new(pb.DropDomain) },
	KindPutAlias:    func() proto.Message { return new(pb.PutAlias) },
	KindDropAlias:   func() proto.Message { return new(pb.DropAlias) },
	KindPutRoute:    func() proto.Message { return new(pb.PutRoute) },
	KindDropRoute:   func() proto.Message { return new(pb.DropRoute) },
	KindPutSettings: func() proto.Message { return new(pb.PutSettings) },
	KindManage:      func() proto.Message { return new(pb.Manage) },
	KindPutCluster:  func() proto.Message { return new(pb.PutCluster) },
	KindPutToken:    func() proto.Message { return new(pb.PutToken) },
	KindUseToken:    func() proto.Message { return new(pb.UseToken) },
	KindDropMember:  func() proto.Message { return new(pb.DropMember) },
	KindRaise:       func() proto.Message { return new(pb.Raise) },
	KindClock:       func() proto.Message { return new(pb.Clock) },
	KindGeneration:  func() proto.Message { return new(pb.Generation) },
	KindCertify:     func() proto.Message { return new(pb.Certify) },
	KindPutCa:       func() proto.Message { return new(pb.PutCa) },
	KindPutSecret:   func() proto.Message { return new(pb.PutSecret) },
	KindSweep:       func() proto.Message { return new(pb.Sweep) },
	KindMark:        func() proto.Message { return new(pb.Mark) },
	KindTally:       func() proto.Message { return new(pb.Tally) },
	KindPutDkim:     func() proto.Message { return new(pb.PutDkim) },
	KindDropDkim:    func() proto.Message { return new(pb.DropDkim) },
	KindGreet:       func() proto.Message { return new(pb.Greet) },
	KindPutCert:     func() proto.Message { return new(pb.PutCert) },
	KindDiscard:     func() proto.Message { return new(pb.Discard) },
	KindImport:      func() proto.Message { return new(pb.Import) },
	KindPutRule:     func() proto.Message { return new(pb.PutRule) },
	KindDropRule:    func() proto.Message { return new(pb.DropRule) },
	KindReseal:      func() proto.Message { return new(pb.Reseal) },

	KindPutRecipients: func() proto.Message { return new(pb.PutRecipients) },
	KindPutPolicy:     func() proto.Message { return new(pb.PutPolicy) },
	KindPutTls:        func() proto.Message { return new(pb.PutTls) },
	KindDropTls:       func() proto.Message { return new(pb.DropTls) },

	KindPutSuppressed:  func() proto.Message { return new(pb.PutSuppressed) },
	KindDropSuppressed: func() proto.Message { return new(pb.DropSuppressed) },
}

func (k Kind) String() string {
	if f, ok := headers[k]; ok {
		return string(f().ProtoReflect().Descriptor().Name())
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// A frame is: the version it needs (1 octet), kind (1), the leader's time in Unix
// milliseconds (8, big endian), the header's length (4, big endian), the
// header (protobuf), and the body (the rest, raw).
const preamble = 14

// Frame is an encoded command, as it stands in the raft log.
type Frame []byte

// ErrFrame says that bytes are not a frame this build understands.
var ErrFrame = errors.New("spool: not a command frame")

// Encode makes a frame of a command's header and, for Accept and Chunk, its
// body. The time is left zero for the leader to stamp.
func Encode(kind Kind, header proto.Message, body ...[]byte) (Frame, error) {
	size := proto.Size(header)
	total := preamble + size
	for _, b := range body {
		total += len(b)
	}
	if total > MaxFrame {
		return nil, fmt.Errorf("spool: a %s of %d octets is over the limit of %d", kind, total, MaxFrame)
	}
	f := make([]byte, preamble, total)
	f[1] = byte(kind)
	binary.BigEndian.PutUint32(f[10:], uint32(size))
	f, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(f, header)
	if err != nil {
		return nil, fmt.Errorf("spool: encode %s: %w", kind, err)
	}
	needs, err := shapes[kind].needs(f[preamble:])
	if err != nil {
		return nil, fmt.Errorf("spool: encode %s: %w", kind, err)
	}
	f[0] = byte(max(needs, since[kind]))
	for _, b := range body {
		f = append(f, b...)
	}
	return f, nil
}

// Stamp writes the leader's time into a frame. The leader alone calls it,
// before the frame enters the log.
func (f Frame) Stamp(t time.Time) { binary.BigEndian.PutUint64(f[2:], uint64(t.UnixMilli())) }

// Kind returns the command's kind, or 0 where the frame is cut short.
func (f Frame) Kind() Kind {
	if len(f) < preamble {
		return 0
	}
	return Kind(f[1])
}

// Bulk reports whether the command carries message bytes, which must not make
// control commands wait. Accept with a small body counts as control.
func (f Frame) Bulk() bool {
	k := f.Kind()
	return k == KindChunk || k == KindImport || k == KindAccept && len(f) > 64<<10
}

// Command is a decoded frame. Body aliases the frame.
type Command struct {
	Kind   Kind
	At     int64 // the leader's time, Unix milliseconds
	Header proto.Message
	Body   []byte
}

// Check reports why Decode would not take a frame, without the cost of decoding:
// it is no frame, of a version or a kind that this build does not know, or has a
// field that it does not know. Such a field would be kept in silence, and this
// node would then differ from those who know it.
func (f Frame) Check() error {
	if len(f) < preamble {
		return fmt.Errorf("%w: %d octets", ErrFrame, len(f))
	}
	kind := Kind(f[1])
	if f[0] == 0 || f[0] > MaxVersion {
		return fmt.Errorf("%w: version %d, this build knows up to %d", ErrFrame, f[0], MaxVersion)
	}
	if shapes[kind] == nil {
		return fmt.Errorf("%w: unknown kind %d", ErrFrame, f[1])
	}
	if uint32(f[0]) < since[kind] {
		return fmt.Errorf("%w: %s in a frame of version %d", ErrFrame, kind, f[0])
	}
	size := int64(binary.BigEndian.Uint32(f[10:]))
	if size > int64(len(f)-preamble) {
		return fmt.Errorf("%w: header of %d octets in a frame of %d", ErrFrame, size, len(f))
	}
	needs, err := shapes[kind].needs(f[preamble : preamble+size])
	switch {
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrFrame, kind, err)
	case needs > uint32(f[0]):
		return fmt.Errorf("%w: %s has fields of version %d in a frame of version %d", ErrFrame, kind, needs, f[0])
	}
	return nil
}

// Decode reads a frame. It never panics, whatever the bytes.
func Decode(f Frame) (Command, error) {
	if err := f.Check(); err != nil {
		return Command{}, err
	}
	size := int64(binary.BigEndian.Uint32(f[10:]))
	c := Command{
		Kind:   Kind(f[1]),
		At:     int64(binary.BigEndian.Uint64(f[2:])),
		Header: headers[Kind(f[1])](),
		Body:   f[preamble+size:],
	}
	if err := proto.Unmarshal(f[preamble:preamble+size], c.Header); err != nil {
		return Command{}, fmt.Errorf("%w: %s: %v", ErrFrame, c.Kind, err)
	}
	return c, nil
}
