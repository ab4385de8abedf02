package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// The keys raft uses for its vote. It writes them one after the other, and a
// crash between the two would leave the new term with the old candidate, whom
// the node would then vote for a second time (hashicorp/raft#661).
const (
	voteTerm = "LastVoteTerm"
	voteFor  = "LastVoteCand"
	voteKey  = "vote" // both, as one value: term (8 octets, big endian) and candidate
)

// stable caches the few values raft keeps beside its log.
type stable struct {
	mu     sync.Mutex
	values map[string][]byte
	vote   struct {
		known     bool
		term      uint64
		candidate []byte
	}
	staged *uint64 // the term of the vote that is being cast
}

func (s *stable) load(db raft.StableStore) error {
	s.values = make(map[string][]byte)
	v, err := db.Get([]byte(voteKey))
	switch {
	case errors.Is(err, raftboltdb.ErrKeyNotFound):
		return nil
	case err != nil:
		return err
	case len(v) < 8:
		return errors.New("disk: damaged vote")
	}
	s.cast(binary.BigEndian.Uint64(v), v[8:])
	return nil
}

func (s *stable) cast(term uint64, candidate []byte) {
	s.vote.known, s.vote.term, s.vote.candidate = true, term, candidate
	s.staged = nil
}

// Set implements raft.StableStore.
func (l *Log) Set(key, value []byte) error {
	l.stable.mu.Lock()
	defer l.stable.mu.Unlock()
	if string(key) == voteFor {
		return l.castVote(value)
	}
	return l.put(key, append([]byte(nil), value...))
}

// castVote writes term and candidate together. The caller holds the lock.
func (l *Log) castVote(candidate []byte) error {
	s := &l.stable
	term := s.vote.term
	if s.staged != nil {
		term = *s.staged
	}
	v := append(binary.BigEndian.AppendUint64(nil, term), candidate...)
	err := l.write("write the vote", func() error { return l.db.Set([]byte(voteKey), v) })
	if err != nil {
		return err
	}
	s.cast(term, v[8:])
	return nil
}

// put writes a value unless the disk has the same already. The caller holds
// the lock.
func (l *Log) put(key, value []byte) error {
	if old, ok := l.stable.values[string(key)]; ok && string(old) == string(value) {
		return l.usable()
	}
	err := l.write("write a value", func() error { return l.db.Set(key, value) })
	if err == nil {
		l.stable.values[string(key)] = value
	}
	return err
}

// SetUint64 implements raft.StableStore. The term of a vote is kept until the
// candidate comes; until then the vote before stands.
func (l *Log) SetUint64(key []byte, value uint64) error {
	l.stable.mu.Lock()
	defer l.stable.mu.Unlock()
	if string(key) == voteTerm {
		l.stable.staged = &value
		return l.usable()
	}
	return l.put(key, binary.BigEndian.AppendUint64(nil, value))
}

// Get implements raft.StableStore. For an absent key it returns the error that
// raft expects from raft-boltdb.
func (l *Log) Get(key []byte) ([]byte, error) {
	if err := l.usable(); err != nil {
		return nil, err
	}
	l.stable.mu.Lock()
	defer l.stable.mu.Unlock()
	s := &l.stable
	switch string(key) {
	case voteFor, voteTerm:
		if !s.vote.known {
			return nil, raftboltdb.ErrKeyNotFound
		}
		if string(key) == voteTerm {
			return binary.BigEndian.AppendUint64(nil, s.vote.term), nil
		}
		return append([]byte(nil), s.vote.candidate...), nil
	}
	if v, ok := s.values[string(key)]; ok {
		return append([]byte(nil), v...), nil
	}
	v, err := l.fetch(key)
	if err == nil {
		s.values[string(key)] = append([]byte(nil), v...)
	}
	return v, err
}

func (l *Log) fetch(key []byte) (v []byte, err error) {
	err = guarded(func() (err error) {
		v, err = l.db.Get(key)
		return err
	})
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		err = l.fail(fmt.Errorf("disk: read %s: %w", key, err))
	}
	return v, err
}

// GetUint64 implements raft.StableStore.
func (l *Log) GetUint64(key []byte) (uint64, error) {
	v, err := l.Get(key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, l.fail(errors.New("disk: damaged number"))
	}
	return binary.BigEndian.Uint64(v), nil
}
