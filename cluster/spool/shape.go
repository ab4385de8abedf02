package spool

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "relay/cluster/spool/spoolpb"
)

// shape is what this build knows of a message on the wire. It tells, without
// decoding, whether a message has nothing but known fields and which version
// they need; a walk over an Accept takes a fraction of what Unmarshal takes.
type shape struct {
	name   string
	fields []shapeField // by number; those that do not exist have no kind
}

type shapeField struct {
	kind  protoreflect.Kind
	wire  protowire.Type
	list  bool // a scalar that may come packed, too
	since uint32
	of    *shape // of a message
}

// maxNesting bounds messages in messages; commands have a handful.
const maxNesting = 64

var errNesting = errors.New("too many messages in one another")

// shapes are those of the commands' headers.
var shapes = func() *[256]*shape {
	all, known := new([256]*shape), map[protoreflect.FullName]*shape{}
	for kind, make := range headers {
		all[kind] = shapeOf(make().ProtoReflect().Descriptor(), known)
	}
	return all
}()

func shapeOf(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*shape) *shape {
	if s := known[d.FullName()]; s != nil {
		return s
	}
	s := &shape{name: nameOf(d)}
	known[d.FullName()] = s
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		n := int(fd.Number())
		if n >= len(s.fields) {
			s.fields = append(s.fields, make([]shapeField, n+1-len(s.fields))...)
		}
		f := shapeField{kind: fd.Kind(), wire: wireOf(fd.Kind()), since: SinceField(fd)}
		f.list = fd.IsList() && f.wire != protowire.BytesType
		if fd.Kind() == protoreflect.MessageKind {
			f.of = shapeOf(fd.Message(), known)
		}
		s.fields[n] = f
	}
	return s
}

// nameOf is a message's name without the package.
func nameOf(d protoreflect.Descriptor) string {
	return string(d.FullName()[len(pb.File_spool_proto.Package())+1:])
}

// SinceField says from which cluster version on a field may be used.
func SinceField(fd protoreflect.FieldDescriptor) uint32 {
	return max(1, sinceMessage[nameOf(fd.Parent())], sinceField[nameOf(fd.Parent())+"."+string(fd.Name())])
}

func wireOf(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	}
	return protowire.VarintType
}

// needs returns the version that an encoded message needs, or why this build
// can't read all of it.
func (s *shape) needs(b []byte) (uint32, error) { return s.walk(b, 1, maxNesting) }

func (s *shape) walk(b []byte, needs uint32, depth int) (uint32, error) {
	if depth == 0 {
		return 0, errNesting
	}
	for len(b) > 0 {
		num, wire, n := tagOf(b)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		b = b[n:]
		if int(num) >= len(s.fields) || s.fields[num].kind == 0 {
			return 0, fmt.Errorf("%s has a field %d, which this build does not know", s.name, num)
		}
		f := &s.fields[num]
		needs = max(needs, f.since)
		var inner []byte
		if wire == protowire.BytesType {
			inner, n = bytesOf(b)
		} else {
			n = protowire.ConsumeFieldValue(num, wire, b)
		}
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		if err := s.value(f, num, wire, inner); err != nil {
			return 0, err
		}
		if f.of != nil {
			var err error
			if needs, err = f.of.walk(inner, needs, depth-1); err != nil {
				return 0, err
			}
		}
		b = b[n:]
	}
	return needs, nil
}

// tagOf is protowire.ConsumeTag, with a short way for fields below 16.
func tagOf(b []byte) (protowire.Number, protowire.Type, int) {
	if b[0] >= 1<<3 && b[0] < 1<<7 {
		return protowire.Number(b[0] >> 3), protowire.Type(b[0] & 7), 1
	}
	return protowire.ConsumeTag(b)
}

// bytesOf is protowire.ConsumeBytes, with a short way for what is short.
func bytesOf(b []byte) ([]byte, int) {
	if len(b) > 0 && b[0] < 1<<7 && int(b[0]) < len(b) {
		return b[1 : 1+int(b[0])], 1 + int(b[0])
	}
	return protowire.ConsumeBytes(b)
}

// value checks what stands behind a field's tag; inner is what a value that says
// its length has.
func (s *shape) value(f *shapeField, num protowire.Number, wire protowire.Type, inner []byte) error {
	switch {
	case wire == f.wire:
		if f.kind == protoreflect.StringKind && !utf8.Valid(inner) {
			return fmt.Errorf("%s has octets in field %d that are no text", s.name, num)
		}
		return nil
	case f.list && wire == protowire.BytesType:
		return s.packed(f, num, inner)
	}
	return fmt.Errorf("%s has another kind of field %d than this build knows", s.name, num)
}

// packed checks a list of numbers that came as one value.
func (s *shape) packed(f *shapeField, num protowire.Number, list []byte) error {
	for len(list) > 0 {
		n := protowire.ConsumeFieldValue(num, f.wire, list)
		if n < 0 {
			return protowire.ParseError(n)
		}
		list = list[n:]
	}
	return nil
}
