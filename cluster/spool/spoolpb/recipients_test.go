package spoolpb

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"
)

// drawRecipient fills each field of the record, or leaves it out, whatever fields there are.
func drawRecipient(t *rapid.T) *Recipient {
	r := &Recipient{}
	m := r.ProtoReflect()
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		if rapid.Bool().Draw(t, "none") {
			continue
		}
		number := rapid.Int64().Draw(t, string(f.Name()))
		switch f.Kind() {
		case protoreflect.StringKind:
			text := rapid.SampledFrom([]string{"a", "451 try again", "user@example.com"}).Draw(t, string(f.Name()))
			m.Set(f, protoreflect.ValueOfString(text))
		case protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(protoreflect.EnumNumber(number&7)))
		case protoreflect.Uint32Kind:
			m.Set(f, protoreflect.ValueOfUint32(uint32(number)))
		case protoreflect.Sint32Kind:
			m.Set(f, protoreflect.ValueOfInt32(int32(number)))
		case protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(number))
		case protoreflect.Uint64Kind:
			m.Set(f, protoreflect.ValueOfUint64(uint64(number)))
		case protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(true))
		case protoreflect.MessageKind:
			r.Drop = &Drop{Mailbox: "a@example.com", QuotaBytes: 7}
		default:
			t.Fatalf("field %s is of a kind that this test does not know", f.Name())
		}
	}
	return r
}

func TestARecipientReaderReadsWhatProtobufReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d RecipientReader
		var got Recipient
		for range 5 {
			want := drawRecipient(t)
			b, err := proto.Marshal(want)
			require.NoError(t, err)
			require.NoError(t, d.Read(b, &got))
			require.True(t, proto.Equal(want, &got), "%v is read as %v", want, &got)
		}
	})
}

func TestARecipientReaderLeavesNoneOfTheRecordBefore(t *testing.T) {
	var d RecipientReader
	var got Recipient
	b, err := proto.Marshal(&Recipient{Address: "a@example.com", Drop: &Drop{Mailbox: "a@example.com"}})
	require.NoError(t, err)
	// A field of a build to come is kept by proto.Unmarshal.
	strange := protowire.AppendVarint(protowire.AppendTag(b, 5000, protowire.VarintType), 7)
	require.NoError(t, d.Read(strange, &got))
	require.NotEmpty(t, got.ProtoReflect().GetUnknown())
	b, err = proto.Marshal(&Recipient{Address: "b@example.com"})
	require.NoError(t, err)
	require.NoError(t, d.Read(b, &got))
	require.True(t, proto.Equal(&Recipient{Address: "b@example.com"}, &got), "%v", &got)
	require.Error(t, d.Read(b[:len(b)-1], &got))
}

func BenchmarkRecipientReader(b *testing.B) {
	record, err := proto.Marshal(&Recipient{
		Address: "user@example.com", Attempts: 3, NextMs: 1_790_000_000_000, LastMs: 1_790_000_000_000, Home: 12,
		LastReply: "451 4.7.1 Greylisted, try again later", LastHost: "mx.far.test [192.0.2.1]:25", Size: 4096,
	})
	require.NoError(b, err)
	b.Run("reader", func(b *testing.B) {
		var d RecipientReader
		var r Recipient
		for b.Loop() {
			_ = d.Read(record, &r)
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		var r Recipient
		for b.Loop() {
			_ = proto.Unmarshal(record, &r)
		}
	})
}
