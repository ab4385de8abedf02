package edit

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/routing"
	"relay/node/rule"
	"relay/node/wording"
	"relay/smtp/printable"
)

// Bounds of what an audit line says beside the command itself.
const (
	noteMost  = 2000
	NoteValue = 200
)

// Annotate gives an operator's command the words that the audit log keeps of it:
// what the record was and what it will be. A cluster of version 1 has no place
// for them.
//
// 2026-11-29, audit: the node that is asked compares the command with the record and puts the words
// into the command (Admin.note, version 2); Apply only keeps them. Rejected: comparing in Apply (words
// would be part of the format for ever).
func (e *Editor) Annotate(h proto.Message) {
	one, ok := h.(interface{ GetAdmin() *pb.Admin })
	if !ok || one.GetAdmin() == nil {
		return
	}
	adm := one.GetAdmin()
	err := e.replica.View(func(v spool.View) error {
		c, _, err := v.Cluster()
		switch {
		case err != nil:
			return err
		case spool.VersionOf(c) < 2:
			adm.Note, adm.Count, adm.Quiet = "", 0, false
		case adm.Note == "":
			adm.Note, err = changeNote(v, h)
		}
		return err
	})
	if err != nil {
		e.log.Warn("the audit log will not say what was changed: " + err.Error())
	}
	adm.Note = Shortened(adm.Note, noteMost)
}

// changeNote compares a command with what it changes.
func changeNote(v spool.View, h proto.Message) (string, error) {
	switch h := h.(type) {
	case *pb.PutAccount:
		old, there, err := v.Account(h.GetAccount().GetAddress())
		return compared(there, old, h.GetAccount()), err
	case *pb.DropAccount:
		box, _, err := v.Mailbox(h.Address)
		return wording.Counted(box.GetMessages(), "message") + " in the mailbox", err
	case *pb.PutDomain:
		old, there, err := v.Domain(h.GetDomain().GetName())
		return compared(there, old, h.GetDomain()), err
	case *pb.DropDomain:
		old, there, err := v.Domain(h.Name)
		return was(there, old), err
	case *pb.PutAlias:
		old, there, err := v.Alias(h.GetAlias().GetAddress())
		return compared(there, old, h.GetAlias()), err
	case *pb.DropAlias:
		old, there, err := v.Alias(h.Address)
		return was(there, old), err
	case *pb.PutRoute:
		old, there, err := routeOf(v, routing.KeyOf(h.GetRoute()))
		return compared(there, old, h.GetRoute()), err
	case *pb.DropRoute:
		old, there, err := routeOf(v, routing.Key{Domain: h.Domain, From: h.From, Login: h.Login})
		return was(there, old), err
	case *pb.PutRule:
		return "new, " + rule.Note(h.GetRule()), nil
	case *pb.DropRule:
		old, there, err := v.Rule(h.Id)
		if err != nil || !there {
			return "", err
		}
		return "was " + rule.Word(old.Action) + ", " + rule.Note(old), nil
	case *pb.PutSettings:
		old, err := v.Settings()
		return compared(true, old, h.GetSettings()), err
	case *pb.PutDkim:
		return strings.Join(valuesOf(h.GetKey()), ", "), nil
	case *pb.PutToken:
		return fmt.Sprintf("%s until %s", wording.Counted(uint64(h.GetToken().GetUses()), "use"),
			time.UnixMilli(h.GetToken().GetExpiresMs()).UTC().Format(time.RFC3339)), nil
	}
	return "", nil
}

func routeOf(v spool.View, k routing.Key) (*pb.Route, bool, error) {
	return v.RouteTo(k.Domain, k.From, k.Login)
}

// was lists what a record that goes away holds.
func was(there bool, old proto.Message) string {
	if !there {
		return ""
	}
	if all := valuesOf(old); len(all) > 0 {
		return "was " + strings.Join(all, ", ")
	}
	return ""
}

// compared lists the fields that differ, as "name from → to". Of secrets it says
// that they differ, and nothing else.
func compared(there bool, old, now proto.Message) string {
	if !there {
		return strings.Join(append([]string{"new"}, valuesOf(now)...), ", ")
	}
	var all []string
	a, b := old.ProtoReflect(), now.ProtoReflect()
	eachField(now, func(f protoreflect.FieldDescriptor) {
		name := string(f.Name())
		switch from, to := a.Get(f), b.Get(f); {
		case a.Has(f) == b.Has(f) && from.Equal(to):
		case secretField(name):
			all = append(all, name+" changed")
		default:
			all = append(all, fmt.Sprintf("%s %s → %s", plainName(name), valueOf(f, from), valueOf(f, to)))
		}
	})
	if len(all) == 0 {
		return "nothing differs"
	}
	return strings.Join(all, ", ")
}

// valuesOf lists the fields that a record has.
func valuesOf(m proto.Message) (all []string) {
	r := m.ProtoReflect()
	eachField(m, func(f protoreflect.FieldDescriptor) {
		name := string(f.Name())
		switch {
		case !r.Has(f):
		case secretField(name):
			all = append(all, name+" set")
		default:
			all = append(all, plainName(name)+" "+valueOf(f, r.Get(f)))
		}
	})
	return all
}

// eachField visits the fields that an operator chooses.
func eachField(m proto.Message, visit func(protoreflect.FieldDescriptor)) {
	own := []string{"address", "domain", "name", "created_ms", "box", "changed", "scram"}
	if _, person := m.(*pb.Account); person { // its name is not its key
		own = slices.DeleteFunc(own, func(s string) bool { return s == "name" })
	}
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); !slices.Contains(own, string(f.Name())) {
			visit(f)
		}
	}
}

func secretField(name string) bool {
	return name == "password" || name == "client_key" || name == "private" || name == "secret"
}

// plainName is a field's name without its unit.
func plainName(name string) string { return strings.TrimSuffix(name, "_ms") }

func valueOf(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if f.IsList() {
		var all []string
		for i := range v.List().Len() {
			one := v.List().Get(i)
			if text := one.String(); f.Kind() != protoreflect.BytesKind {
				all = append(all, text)
			} else {
				all = append(all, hex.EncodeToString(one.Bytes()))
			}
		}
		return Shortened("["+strings.Join(all, " ")+"]", NoteValue)
	}
	switch {
	case f.Kind() == protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			return strings.ToLower(string(d.Name()))
		}
	case (f.Kind() == protoreflect.Int64Kind || f.Kind() == protoreflect.Sint64Kind) &&
		strings.HasSuffix(string(f.Name()), "_ms"):
		return (time.Duration(v.Int()) * time.Millisecond).String()
	case f.Kind() == protoreflect.StringKind:
		return Shortened(fmt.Sprintf("%q", printable.Text(v.String(), NoteValue)), NoteValue)
	}
	return v.String()
}

// Shortened cuts a text, at a rune.
func Shortened(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
