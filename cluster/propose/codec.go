package propose

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"relay/cluster/fault"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// parcel is a message between members that writes and reads itself.
type parcel interface {
	marshal() (mem.BufferSlice, error)
	unmarshal(mem.BufferSlice) error
}

// codec lets gRPC carry parcels. Frames are handed to the connection where
// they lie, and are copied once, out of the connection's buffers, on arrival.
type codec struct{}

func (codec) Name() string { return "relay" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	p, ok := v.(parcel)
	if !ok {
		return nil, fmt.Errorf("cluster: can't send a %T", v)
	}
	return p.marshal()
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	p, ok := v.(parcel)
	if !ok {
		return fmt.Errorf("cluster: can't receive a %T", v)
	}
	return p.unmarshal(data)
}

// ErrParcel says that a message between members can't be read.
var ErrParcel = errors.New("cluster: malformed message between members")

// ------------------------------------------------------------- proposals

const (
	preamble = 14  // octets of a frame before its header
	inlined  = 512 // frames up to this are copied beside the numbers
)

// batch is some frames with their numbers:
// (number, length, frame)*, numbers and lengths as varints.
type batch struct {
	out mem.BufferSlice
	raw []byte
	cut int // raw before this stands in out

	in []*proposal
}

// add appends a frame. Its time is sent as zero, whatever it is, and what is
// shared with the connection does not include it: a batcher of this node may
// stamp the same frame while an abandoned connection still sends it.
func (b *batch) add(num uint64, f spool.Frame) {
	if b.raw == nil {
		b.raw = make([]byte, 0, 4096)
	}
	b.raw = binary.AppendUvarint(b.raw, num)
	b.raw = binary.AppendUvarint(b.raw, uint64(len(f)))
	b.raw = append(b.raw, f[:stampStart]...)
	b.raw = append(b.raw, 0, 0, 0, 0, 0, 0, 0, 0)
	rest := f[stampEnd:]
	if len(rest) <= inlined {
		b.raw = append(b.raw, rest...)
		return
	}
	b.flush()
	b.out = append(b.out, mem.SliceBuffer(rest))
}

func (b *batch) flush() {
	if b.cut < len(b.raw) {
		// The slice stays valid when raw moves to a larger array.
		b.out = append(b.out, mem.SliceBuffer(b.raw[b.cut:len(b.raw):len(b.raw)]))
		b.cut = len(b.raw)
	}
}

func (b *batch) marshal() (mem.BufferSlice, error) {
	b.flush()
	return b.out, nil
}

func (b *batch) unmarshal(data mem.BufferSlice) error {
	b.in = b.in[:0]
	r := data.Reader()
	defer r.Close()
	for r.Remaining() > 0 {
		num, err := binary.ReadUvarint(r)
		if err != nil {
			return ErrParcel
		}
		f, err := readBytes(r, spool.MaxFrame)
		if err != nil || len(f) < preamble {
			return ErrParcel
		}
		b.in = append(b.in, &proposal{frame: f, num: num})
	}
	return nil
}

// readBytes reads a length and so many octets into memory of their own.
func readBytes(r *mem.Reader, limit int) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil || n > uint64(r.Remaining()) || n > uint64(limit) {
		return nil, ErrParcel
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, ErrParcel
	}
	return b, nil
}

// --------------------------------------------------------------- answers

// A forwarded proposal ends in one of these ways.
const (
	endApplied   = 0 // followed by the Result
	endNotLeader = 1 // surely not applied
	endInvalid   = 2 // surely not applied, and no other leader would
	endUnknown   = 3 // may be applied; followed by words
)

// answers is what became of some proposals:
// (number, end, length, Result or words)*.
type answers struct {
	raw []byte
	in  []answer
}

type answer struct {
	num uint64
	res *pb.Result
	err error
}

// add appends one answer.
func (a *answers) add(num uint64, res *pb.Result, err error) {
	a.raw = binary.AppendUvarint(a.raw, num)
	if err == nil {
		a.raw = append(a.raw, endApplied)
		a.raw = binary.AppendUvarint(a.raw, uint64(proto.Size(res)))
		a.raw, _ = proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(a.raw, res)
		return
	}
	end := byte(endUnknown)
	switch {
	case errors.Is(err, fault.ErrInvalid):
		end = endInvalid
	case !fault.MayBeApplied(err):
		end = endNotLeader
	}
	text := err.Error()
	a.raw = append(a.raw, end)
	a.raw = binary.AppendUvarint(a.raw, uint64(len(text)))
	a.raw = append(a.raw, text...)
}

func (a *answers) marshal() (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(a.raw)}, nil
}

func (a *answers) unmarshal(data mem.BufferSlice) error {
	a.in = a.in[:0]
	r := data.Reader()
	defer r.Close()
	for r.Remaining() > 0 {
		num, err := binary.ReadUvarint(r)
		if err != nil {
			return ErrParcel
		}
		end, err := r.ReadByte()
		if err != nil {
			return ErrParcel
		}
		b, err := readBytes(r, r.Remaining())
		if err != nil {
			return err
		}
		one := answer{num: num}
		switch end {
		case endApplied:
			one.res = new(pb.Result)
			if err := proto.Unmarshal(b, one.res); err != nil {
				return ErrParcel
			}
		case endNotLeader:
			one.err = fault.ErrNotLeader
		case endInvalid:
			one.err = fmt.Errorf("%w: %s", fault.ErrInvalid, b)
		default:
			one.err = fmt.Errorf("%w: %s", fault.ErrDeposed, b)
		}
		a.in = append(a.in, one)
	}
	return nil
}

// ------------------------------------------------------------- questions

// question is a method's name and its request; answers to it are plain.
type question struct {
	method string
	body   []byte
}

func (q *question) marshal() (mem.BufferSlice, error) {
	head := binary.AppendUvarint(nil, uint64(len(q.method)))
	return mem.BufferSlice{mem.SliceBuffer(append(head, q.method...)), mem.SliceBuffer(q.body)}, nil
}

func (q *question) unmarshal(data mem.BufferSlice) error {
	r := data.Reader()
	defer r.Close()
	name, err := readBytes(r, 256)
	if err != nil {
		return err
	}
	q.method = string(name)
	q.body = make([]byte, r.Remaining())
	_, err = io.ReadFull(r, q.body)
	return err
}

// plain is octets.
type plain struct{ b []byte }

func (p *plain) marshal() (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(p.b)}, nil
}

func (p *plain) unmarshal(data mem.BufferSlice) error {
	p.b = data.Materialize()
	return nil
}
