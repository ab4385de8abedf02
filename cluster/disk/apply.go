package disk

import (
	"fmt"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// ApplyBatch implements raft.BatchingFSM. A command is answered with a
// *pb.Result, a configuration with nil. Data and applied index are committed
// together and nothing is synced: the log brings back the records that a crash takes
// away. An entry that is contained already is answered as a duplicate.
//
// After a failure, which Options.Fatal was told, every entry is answered with
// an error.
func (s *Store) ApplyBatch(logs []*raft.Log) []any {
	s.applying.Lock()
	defer s.applying.Unlock()
	answers := make([]any, len(logs))
	err := s.usable()
	for i, l := range logs {
		if err == nil {
			answers[i], err = s.enter(l)
		}
	}
	if err == nil {
		err = s.commit()
	}
	if err == nil {
		return answers
	}
	if s.batch != nil {
		s.batch.reset()
	}
	for i := range answers {
		answers[i] = err
	}
	s.fatal(err)
	return answers
}

// usable reports why nothing can be applied any more.
func (s *Store) usable() error {
	if err := s.broke(); err != nil {
		return err
	}
	if s.batch == nil {
		return ErrClosed
	}
	return nil
}

// Apply implements raft.FSM.
func (s *Store) Apply(l *raft.Log) any { return s.ApplyBatch([]*raft.Log{l})[0] }

// StoreConfiguration implements raft.ConfigurationStore. Raft does not call it
// for an FSM that takes batches: there configurations come with the batch.
func (s *Store) StoreConfiguration(index uint64, c raft.Configuration) {
	s.applying.Lock()
	defer s.applying.Unlock()
	if s.usable() != nil || index <= s.staged.index {
		return
	}
	s.staged.index, s.staged.configIndex = index, index
	s.staged.config = raft.EncodeConfiguration(c)
	if err := s.commit(); err != nil {
		s.fatal(err)
	}
}

// enter adds one entry to the batch, and commits the batch where it is large
// or where the entry is a mark.
func (s *Store) enter(l *raft.Log) (any, error) {
	if l.Index <= s.staged.index {
		return s.known(l), nil
	}
	var answer any
	mark := ""
	switch l.Type {
	case raft.LogConfiguration:
		s.staged.config, s.staged.configIndex = l.Data, l.Index
		if _, err := s.staged.configuration(); err != nil {
			return nil, fmt.Errorf("disk: configuration at %d: %w", l.Index, err)
		}
	case raft.LogCommand:
		f := spool.Frame(l.Data)
		s.anchorAt(l.Index)
		res, err := s.machine.Apply(s.batch, l.Index, f)
		if err != nil {
			return nil, err
		}
		s.count.commands.Add(1)
		answer = res
		if f.Kind() == spool.KindRaise {
			s.anchors.clear() // refused or not: sums of before are of no use
		}
		if f.Kind() == spool.KindMark {
			mark = markID(f)
		}
	default:
		return nil, fmt.Errorf("disk: entry %d has the unknown type %d", l.Index, l.Type)
	}
	s.staged.index, s.staged.term = l.Index, l.Term
	if mark == "" && s.batch.size() < s.o.BatchSize {
		return answer, nil
	}
	if err := s.commit(); err != nil {
		return nil, err
	}
	if mark != "" {
		s.startMark(mark)
	}
	return answer, nil
}

// known answers an entry that the store contains: one that raft replays after
// a restart, when nobody waits for the answer.
func (s *Store) known(l *raft.Log) any {
	s.count.replayed.Add(1)
	if l.Type != raft.LogCommand {
		return nil
	}
	return &pb.Result{Code: pb.Code_DUPLICATE, Index: l.Index, Text: "applied before"}
}

// commit makes what was staged visible, in one piece.
func (s *Store) commit() error {
	if s.staged.same(s.meta) {
		return nil
	}
	if err := s.machine.Flush(s.batch); err != nil {
		return err
	}
	s.count.batches.Add(1)
	s.count.bytes.Add(uint64(s.batch.size()))
	s.scratch = s.staged.encode(s.scratch[:0])
	if err := s.batch.commit(s.scratch, s.encodeSum(s.sumScratch[:0])); err != nil {
		return fmt.Errorf("disk: commit up to %d: %w", s.staged.index, err)
	}
	s.meta = s.staged
	s.reached(s.meta.index)
	s.o.OnChanges(s.machine.Changes())
	return nil
}

func markID(f spool.Frame) string {
	c, err := spool.Decode(f)
	if err != nil {
		return ""
	}
	m, ok := c.Header.(*pb.Mark)
	if !ok {
		return ""
	}
	return m.Id
}

// Snapshot implements raft.FSM. It copies nothing: see persist.
func (s *Store) Snapshot() (raft.FSMSnapshot, error) {
	if err := s.broke(); err != nil {
		return nil, err
	}
	return snapshot{s}, nil
}

type snapshot struct{ s *Store }

// Persist implements raft.FSMSnapshot. When it returns nil, the disk holds at
// least what the sink was created for, and raft may truncate its log.
func (p snapshot) Persist(to raft.SnapshotSink) error {
	k, ok := to.(*sink)
	if !ok || k.s != p.s {
		return fmt.Errorf("disk: a snapshot of the store can not be written to a %T", to)
	}
	if err := p.s.persist(k.meta); err != nil {
		return err
	}
	k.persisted = true
	return nil
}

// Release implements raft.FSMSnapshot.
func (p snapshot) Release() {}

// persist records what raft knows of the snapshot and flushes. Raft's index
// may be ahead of the store's by entries the store is never shown, and
// RecoverCluster hands its new configuration over in no other way.
func (s *Store) persist(want meta) error {
	if err := s.witness(want); err != nil {
		return err
	}
	if err := s.Flush(); err != nil {
		return err
	}
	have, err := s.durable()
	if err != nil {
		return err
	}
	if have.index < want.index {
		err := fmt.Errorf("disk: flushed up to %d, but the disk holds %d", want.index, have.index)
		s.fatal(err)
		return err
	}
	s.log.Debug("snapshot", zap.Uint64("index", have.index), zap.Uint64("term", have.term))
	return nil
}

func (s *Store) witness(want meta) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if s.staged.configIndex <= want.index {
		s.staged.config, s.staged.configIndex = want.config, want.configIndex
	}
	if s.staged.index < want.index {
		s.staged.index, s.staged.term = want.index, want.term
	}
	if err := s.commit(); err != nil {
		s.fatal(err)
		return err
	}
	return nil
}
