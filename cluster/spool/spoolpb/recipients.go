package spoolpb

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A RecipientReader decodes many queue records one after the other, in a third of
// the time of proto.Unmarshal, which is most of a scan of a million. It shares the
// texts that many records have in common. The zero value is ready.
type RecipientReader struct {
	texts map[string]string
}

// Read decodes one record into r, all of whose fields are replaced. r must not
// have been encoded, and is to be used for nothing but this reader's records. A record
// with fields that this reader does not know is left to proto.Unmarshal.
func (d *RecipientReader) Read(b []byte, r *Recipient) error {
	r.Address, r.Original, r.LastReply, r.LastHost, r.Route, r.Addressed = "", "", "", "", "", ""
	r.State, r.Attempts, r.Notify, r.NextMs, r.LastMs, r.ExpiresMs = 0, 0, 0, 0, 0, 0
	r.DelayTold, r.Home, r.Priority, r.Changed, r.Pass, r.Size, r.Drop = false, 0, 0, 0, 0, 0, nil
	r.unknownFields = nil
	for rest := b; len(rest) > 0; {
		num, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return proto.Unmarshal(b, r)
		}
		rest = rest[n:]
		ok := false
		switch kind {
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(rest); n >= 0 {
				ok = r.number(num, v)
			}
		case protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(rest); n >= 0 {
				ok = d.text(r, num, v)
			}
		}
		if !ok {
			return proto.Unmarshal(b, r)
		}
		rest = rest[n:]
	}
	return nil
}

func (r *Recipient) number(num protowire.Number, v uint64) bool {
	switch num {
	case 3:
		r.State = State(v)
	case 4:
		r.Attempts = uint32(v)
	case 5:
		r.NextMs = int64(v)
	case 6:
		r.LastMs = int64(v)
	case 9:
		r.Notify = uint32(v)
	case 11:
		r.DelayTold = protowire.DecodeBool(v)
	case 12:
		r.Home = v
	case 13:
		r.Priority = int32(protowire.DecodeZigZag(v & (1<<32 - 1)))
	case 40:
		r.ExpiresMs = int64(v)
	case 42:
		r.Changed = v
	case 44:
		r.Pass = v
	case 45:
		r.Size = v
	default:
		return false
	}
	return true
}

func (d *RecipientReader) text(r *Recipient, num protowire.Number, v []byte) bool {
	switch num {
	case 1:
		r.Address = string(v)
	case 2:
		r.Original = string(v)
	case 7:
		r.LastReply = d.common(v)
	case 8:
		r.LastHost = d.common(v)
	case 10:
		r.Route = d.common(v)
	case 43:
		r.Addressed = string(v)
	default:
		return false
	}
	return true
}

// commonTexts bounds the texts that a reader shares.
const commonTexts = 256

// common returns the text that an earlier record had, where it is one of the last
// ones seen.
func (d *RecipientReader) common(v []byte) string {
	if text, ok := d.texts[string(v)]; ok {
		return text
	}
	if d.texts == nil || len(d.texts) >= commonTexts {
		d.texts = map[string]string{}
	}
	text := string(v)
	d.texts[text] = text
	return text
}
