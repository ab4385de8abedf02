// Package preload puts messages by the million into the data of a trial cluster that
// was killed: as history, or waiting. It applies the commands that would have made them
// to each node's store, so it takes a minute where mail would take ten.
package preload

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/datadir"
	"relay/cluster/disk"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// Stock says what a cluster is filled with.
type Stock struct {
	Messages int
	Waiting  bool          // deferred, and due in an hour; else delivered, and history
	Size     int           // octets of a body
	Span     time.Duration // the messages came, at an even rate, within so long before now
	Domains  int           // of the recipients; 0: one
}

// group is how many messages one batch of commands makes, as a busy cluster has it.
const group = 64

// Fill fills the data directories of all nodes of a cluster. Every node must have been
// killed, so that its session is still in the state: the messages are its own.
func Fill(ctx context.Context, dirs []string, s Stock) (err error) {
	nodes, err := openAll(dirs)
	defer func() { err = errors.Join(err, nodes.close()) }()
	if err != nil {
		return err
	}
	if err := nodes.level(); err != nil {
		return err
	}
	m, err := nodes.newMaker(s)
	if err != nil {
		return err
	}
	for m.made < s.Messages {
		if err := cmp.Or(ctx.Err(), nodes.apply(m.next())); err != nil {
			return err
		}
	}
	return nodes.finish()
}

type node struct {
	*datadir.Data
	last uint64 // of its log
	term uint64 // of that entry
}

type nodes []*node

func openAll(dirs []string) (all nodes, err error) {
	fail := func(err error) { panic(fmt.Sprintf("preload: the data can not be written: %v", err)) }
	for _, dir := range dirs {
		d, err := datadir.OpenData(dir, tuning.Tuning{}.WithDefaults(), zap.NewNop(), disk.Options{
			OnChanges: func(spool.Changes) {},
		}, nil, fail)
		if err != nil {
			return all, err
		}
		n := &node{Data: d}
		all = append(all, n)
		if n.last, err = d.Log.LastIndex(); err != nil {
			return all, err
		}
		var e raft.Log
		if err := d.Log.GetLog(n.last, &e); err != nil {
			return all, fmt.Errorf("the node's log has no last entry: %w", err)
		}
		n.term = e.Term
	}
	return all, nil
}

func (all nodes) close() (err error) {
	for _, n := range all {
		err = errors.Join(err, n.Close())
	}
	return err
}

// longest is the node whose log goes furthest: all that was committed is in it.
func (all nodes) longest() *node {
	return slices.MaxFunc(all, func(a, b *node) int {
		return cmp.Or(cmp.Compare(a.term, b.term), cmp.Compare(a.last, b.last))
	})
}

// level brings all stores to the end of the longest log.
func (all nodes) level() error {
	from := all.longest()
	for _, n := range all {
		for i := n.Store.Applied() + 1; i <= from.last; i++ {
			e := &raft.Log{}
			if err := from.Log.GetLog(i, e); err != nil {
				return err
			}
			if e.Type != raft.LogCommand && e.Type != raft.LogConfiguration {
				continue
			}
			// A command that was refused is refused again.
			if err, ok := n.Store.ApplyBatch([]*raft.Log{e})[0].(error); ok {
				return err
			}
		}
	}
	return nil
}

// failure is the first command that failed or was refused.
func failure(answers []any) error {
	for _, a := range answers {
		switch a := a.(type) {
		case error:
			return a
		case *pb.Result:
			for _, code := range append(a.Codes, a.Code) {
				if code != pb.Code_OK && code != pb.Code_DUPLICATE {
					return fmt.Errorf("a command was answered %s: %s", code, a.Text)
				}
			}
		}
	}
	return nil
}

// apply applies the same entries at all nodes, at once.
func (all nodes) apply(entries []*raft.Log) error {
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, n := range all {
		wg.Go(func() { errs[i] = failure(n.Store.ApplyBatch(entries)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// finish makes the stores durable and empties the logs, as behind a snapshot.
func (all nodes) finish() error {
	for _, n := range all {
		if err := n.Store.Flush(); err != nil {
			return err
		}
		first, err := n.Log.FirstIndex()
		if err == nil {
			err = n.Log.DeleteRange(first, n.last)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maker makes commands.
type maker struct {
	Stock
	index, term uint64
	now         time.Time // of the commands
	body        []byte
	sessions    []*pb.Session
	made        int
}

func (all nodes) newMaker(s Stock) (*maker, error) {
	from := all.longest()
	m := &maker{Stock: s, index: from.last, term: from.term, now: time.Now()}
	m.Domains = max(m.Domains, 1)
	m.body = []byte("Subject: preloaded\r\n\r\n" + strings.Repeat(strings.Repeat("x", 62)+"\r\n", s.Size/64+1))
	err := from.Store.View(func(v spool.View) (err error) {
		m.sessions, err = v.Sessions()
		return err
	})
	if err == nil && len(m.sessions) == 0 {
		err = errors.New("no node has a session: was the cluster stopped, and not killed?")
	}
	return m, err
}

// next makes the commands of the next group of messages.
func (m *maker) next() (entries []*raft.Log) {
	session := m.sessions[m.made/group%len(m.sessions)]
	settle := &pb.Settle{Node: session.Node, Epoch: session.Epoch}
	at := m.now.UnixMilli()
	for range min(group, m.Messages-m.made) {
		id, came := m.id()
		entries = append(entries, m.entry(spool.KindAccept, m.accept(id, came, session), m.body))
		v := &pb.Verdict{
			Id: id[:], Attempt: 1, State: pb.State_DELIVERED, Reply: "250 2.0.0 Ok: queued as 12345", AtMs: at,
			Host: "127.0.0.1 [127.0.0.1]:9925",
		}
		if m.Waiting {
			v.State, v.Reply, v.NextMs = pb.State_DEFERRED, "451 4.7.1 try again later", at+time.Hour.Milliseconds()
		}
		settle.Verdicts = append(settle.Verdicts, v)
		m.made++
	}
	return append(entries, m.entry(spool.KindSettle, settle))
}

// id makes the id of the next message. Its end spreads over the buckets of the queue.
func (m *maker) id() (id spool.ID, came time.Time) {
	part := float64(m.made) / float64(m.Messages)
	came = m.now.Add(-m.Span + time.Duration(part*float64(m.Span)))
	_ = id.SetTime(uint64(came.UnixMilli()))
	binary.BigEndian.PutUint64(id[8:], uint64(m.made)*0x9e3779b97f4a7c15)
	return id, came
}

func (m *maker) accept(id spool.ID, came time.Time, s *pb.Session) *pb.Accept {
	return &pb.Accept{
		Inline: true, Epoch: s.Epoch,
		Message: &pb.Message{
			Id: id[:], CreatedMs: came.UnixMilli(), Sender: "sender@bench.example", Digest: make([]byte, 32),
			MessageId: id.String() + "@bench.example",
			Client:    &pb.Client{Node: s.Node, Address: "127.0.0.1:40000", Helo: "bench", Protocol: "ESMTP"},
		},
		Recipients: []*pb.Recipient{{Address: fmt.Sprintf("rcpt@far%d.example", m.made%m.Domains)}},
	}
}

func (m *maker) entry(kind spool.Kind, h proto.Message, body ...[]byte) *raft.Log {
	f, err := spool.Encode(kind, h, body...)
	if err != nil {
		panic(err) // the commands above are whole
	}
	f.Stamp(m.now)
	m.index++
	return &raft.Log{Index: m.index, Term: m.term, Type: raft.LogCommand, Data: f}
}
