package disk

import (
	"bytes"
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// contradicts reports that a leader's snapshot which brings nothing new is of
// another history than what is applied here: it would be dropped, and raft would go
// on behind it. Terms never fall along a log, and one entry has one term and one
// outcome.
func (s *Store) contradicts(r *received) error {
	sent, here := r.meta, s.meta
	term, known := s.o.TermAt(sent.index)
	if sent.index == here.index {
		term, known = here.term, true
	}
	switch {
	case known && term != sent.term:
		return fmt.Errorf("disk: the leader sends a snapshot of entry %d in term %d, and here that entry is of term %d: %s",
			sent.index, sent.term, term, twoSides)
	case sent.term > here.term:
		return fmt.Errorf("disk: the leader sends a snapshot of entry %d in term %d, and here entry %d is applied "+
			"in term %d: %s",
			sent.index, sent.term, here.index, here.term, twoSides)
	case sent.index != here.index:
		return nil
	}
	if same, err := s.sameState(r); err != nil {
		s.log.Warn("a snapshot that brings nothing new can't be compared", zap.Error(err))
		return nil
	} else if same {
		return nil
	}
	return fmt.Errorf("disk: the leader sends a snapshot of entry %d in term %d whose state is another than here: %s",
		sent.index, sent.term, twoSides)
}

const twoSides = "the two sides have taken different mail. Keep this directory, and " + rebuild +
	", or recover the cluster from this node instead"

// sameState compares a received state with ours at the same entry: by the chain of
// sums, and where that differs, as it may between builds, by all that they hold.
func (s *Store) sameState(r *received) (bool, error) {
	ours, known := s.sumNow()
	if !known {
		return true, nil
	}
	same, theirs := true, []byte(nil)
	_, err := s.inspect(s.dir.path(r.dir), func(db *pebble.DB) error {
		sum, there, err := readSum(db, r.meta.index)
		if same = !there || sum == ours; err != nil || same {
			return err
		}
		theirs, err = hash(context.Background(), db)
		return err
	})
	if err != nil || same {
		return same, err
	}
	_, mine, err := s.Hash(context.Background())
	same = bytes.Equal(mine, theirs)
	s.log.Error("the sum of a snapshot differs from ours", zap.Uint64("index", r.meta.index), zap.Bool("same state", same))
	return same, err
}

// sumNow is the chain of sums up to what is applied; false: there is none.
func (s *Store) sumNow() (sum uint64, known bool) {
	m, ok := s.machine.(summer)
	if !ok {
		return 0, false
	}
	return m.Sum()
}
