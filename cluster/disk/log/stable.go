package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// The keys raft uses for its term and its vote. It writes those of the vote one
// after the other, and a crash between the two would leave the new term with the
// old candidate, whom the node would then vote for a second time
// (hashicorp/raft#661).
const (
	termKey  = "CurrentTerm"
	voteTerm = "LastVoteTerm"
	voteFor  = "LastVoteCand"
	voteKey  = "vote" // both, as one value: term (8 octets, big endian) and candidate
	// The same with a checksum behind it, in place of voteKey since SealPromises.
	// It has a key of its own because a checksum can not be told from the end of
	// a candidate's name.
	sealedVoteKey = "vote/crc"
)

// voteElsewhere stands at voteKey since SealPromises: a build that knows no
// checksums finds its vote damaged, and does not go on with an old one.
var voteElsewhere = []byte{2}

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
	sealed bool    // term and vote have checksums
	marked bool    // and voteKey says so
}

var errPromise = errors.New("disk: the node's term or vote is damaged, so it does not know what " +
	"it promised: " + Rebuild)

func (s *stable) load(db raft.StableStore) error {
	s.values = make(map[string][]byte)
	v, err := db.Get([]byte(sealedVoteKey))
	if err == nil {
		return s.loadSealed(db, v)
	}
	if !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return err
	}
	v, err = db.Get([]byte(voteKey))
	switch {
	case errors.Is(err, raftboltdb.ErrKeyNotFound):
		return nil
	case err != nil:
		return err
	case len(v) < 8:
		return errPromise
	}
	s.cast(binary.BigEndian.Uint64(v), v[8:])
	return nil
}

// loadSealed checks all that SealPromises made: nothing of it may be missing.
func (s *stable) loadSealed(db raft.StableStore, vote []byte) error {
	s.sealed = true
	old, err := db.Get([]byte(voteKey))
	s.marked = err == nil && bytes.Equal(old, voteElsewhere)
	vote, ok := unsealed(sealedVoteKey, vote)
	if !ok || len(vote) < 8 {
		return errPromise
	}
	if len(vote) > 8 {
		s.cast(binary.BigEndian.Uint64(vote), vote[8:])
	}
	term, err := db.Get([]byte(termKey))
	if err != nil {
		return errors.Join(errPromise, err)
	}
	if term, ok = unsealed(termKey, term); !ok || len(term) != 8 || binary.BigEndian.Uint64(term) < s.vote.term {
		return errPromise
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealedAs puts a checksum over key and value behind the value.
func sealedAs(key string, value []byte) []byte {
	sum := crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, value)
	return binary.BigEndian.AppendUint32(value[:len(value):len(value)], sum)
}

// unsealed takes the checksum off, and reports whether it is right.
func unsealed(key string, b []byte) (value []byte, ok bool) {
	if len(b) < crc32.Size {
		return nil, false
	}
	value = b[:len(b)-crc32.Size]
	return value, bytes.Equal(sealedAs(key, value), b)
}

// SealPromises gives term and vote checksums, now and whenever they change. An
// older build refuses the log from then on, so this waits until none may come
// back. It costs nothing when it is done already.
//
// They carry a CRC32C over key and value. The vote moves to a key of its own, and an
// older build finds the former one damaged.
func (l *Log) SealPromises() error {
	l.stable.mu.Lock()
	defer l.stable.mu.Unlock()
	s := &l.stable
	if s.sealed && s.marked {
		return l.packSmall()
	}
	if !s.sealed {
		if err := l.seals(); err != nil {
			return err
		}
	}
	if err := l.write("mark the vote", func() error { return l.db.Set([]byte(voteKey), voteElsewhere) }); err != nil {
		return err
	}
	s.marked = true
	return l.packSmall()
}

// seals writes the term, and then the vote: when the vote has its checksum, so
// has the term. The caller holds the lock.
func (l *Log) seals() error {
	s := &l.stable
	term := make([]byte, 8)
	v, err := l.value(termKey)
	if err == nil {
		n, err := number(v)
		if err != nil {
			return l.fail(err)
		}
		binary.BigEndian.PutUint64(term, n)
	} else if !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return err
	}
	if err := l.put([]byte(termKey), sealedAs(termKey, term)); err != nil {
		return err
	}
	vote := append(binary.BigEndian.AppendUint64(nil, s.vote.term), s.vote.candidate...)
	if err := l.write("write the vote", func() error {
		return l.db.Set([]byte(sealedVoteKey), sealedAs(sealedVoteKey, vote))
	}); err != nil {
		return err
	}
	s.sealed = true
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
	key, value := voteKey, v
	if s.sealed {
		key, value = sealedVoteKey, sealedAs(sealedVoteKey, v)
	}
	err := l.write("write the vote", func() error { return l.db.Set([]byte(key), value) })
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
	v := binary.BigEndian.AppendUint64(nil, value)
	if string(key) == termKey && l.stable.sealed {
		v = sealedAs(termKey, v)
	}
	return l.put(key, v)
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
	return l.value(string(key))
}

// value returns a value as it is on the disk. The caller holds the lock.
func (l *Log) value(key string) ([]byte, error) {
	s := &l.stable
	if v, ok := s.values[key]; ok {
		return append([]byte(nil), v...), nil
	}
	v, err := l.fetch([]byte(key))
	if err == nil {
		s.values[key] = append([]byte(nil), v...)
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
	n, err := number(v)
	if err != nil {
		return 0, l.fail(err)
	}
	return n, nil
}

// number reads a number, with a checksum or without one: only a term has one.
func number(v []byte) (uint64, error) {
	if len(v) == 8+crc32.Size {
		var ok bool
		if v, ok = unsealed(termKey, v); !ok {
			return 0, errPromise
		}
	}
	if len(v) != 8 {
		return 0, errPromise
	}
	return binary.BigEndian.Uint64(v), nil
}
