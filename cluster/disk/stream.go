package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A snapshot travels as the raw files of a checkpoint: magic (8 octets), then
// frames of type (1), length (4, big endian), payload, and checksum (8). The
// checksum is xxhash64 of everything since the magic, so it also finds frames
// that were lost, repeated or moved.
//
//	meta  the record of the applied index; comes first
//	file  size (8) and name; its content follows in data frames
//	data  up to 256 KiB; only a file's last one is shorter
//	end   number of files (4) and their size in all (8); comes last
const (
	magic = "relaydb\x01"

	frameMeta byte = 1
	frameFile byte = 2
	frameData byte = 3
	frameEnd  byte = 4

	frameRoom  = 5 + 8 // what a frame has around its payload
	maxPayload = 256 << 10
	maxFiles   = 1 << 20
	maxName    = 128
)

// ErrStream says that a snapshot was damaged on its way, or is not one.
var ErrStream = errors.New("disk: damaged snapshot")

// file is one file of a checkpoint.
type file struct {
	name string
	size int64
}

// packedSize tells how many octets the stream of a checkpoint has. Raft needs
// the exact number before the first one.
func packedSize(meta []byte, files []file) int64 {
	n := int64(len(magic)) + frameRoom + int64(len(meta)) + frameRoom + 12
	for _, f := range files {
		n += frameRoom + 8 + int64(len(f.name)) + f.size
		n += (f.size + maxPayload - 1) / maxPayload * frameRoom
	}
	return n
}

// packer makes the stream, a frame at a time.
type packer struct {
	fs    vfs.FS
	dir   string
	files []file
	sum   *xxhash.Digest
	buf   []byte // the frame being read
	rest  []byte // what is left of it
	i     int    // file
	open  vfs.File
	left  int64 // of the open file
	ended bool
}

func newPacker(fs vfs.FS, dir string, meta []byte, files []file) *packer {
	p := &packer{fs: fs, dir: dir, files: files, sum: xxhash.New(), i: -1}
	p.sum.WriteString(magic)
	p.buf = append(make([]byte, 0, maxPayload+frameRoom), magic...)
	p.begin(frameMeta)
	p.buf = append(p.buf, meta...)
	p.finish(len(magic))
	return p
}

func (p *packer) begin(typ byte) { p.buf = append(p.buf, typ, 0, 0, 0, 0) }

// finish completes the frame that begins at from and makes the buffer readable.
func (p *packer) finish(from int) {
	f := p.buf[from:]
	binary.BigEndian.PutUint32(f[1:], uint32(len(f)-5))
	p.sum.Write(f)
	p.buf = binary.BigEndian.AppendUint64(p.buf, p.sum.Sum64())
	p.rest = p.buf
}

// Read implements io.Reader.
func (p *packer) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.ended {
			return 0, io.EOF
		}
		p.buf = p.buf[:0]
		if err := p.frame(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *packer) frame() error {
	if p.open != nil && p.left > 0 {
		return p.data()
	}
	if err := p.closeFile(); err != nil {
		return err
	}
	if p.i++; p.i >= len(p.files) {
		p.end()
		return nil
	}
	f := p.files[p.i]
	in, err := p.fs.Open(p.fs.PathJoin(p.dir, f.name), vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	p.open, p.left = in, f.size
	p.begin(frameFile)
	p.buf = binary.BigEndian.AppendUint64(p.buf, uint64(f.size))
	p.buf = append(p.buf, f.name...)
	p.finish(0)
	return nil
}

func (p *packer) data() error {
	n := min(p.left, maxPayload)
	p.begin(frameData)
	p.buf = p.buf[:5+n]
	if _, err := io.ReadFull(p.open, p.buf[5:]); err != nil {
		return fmt.Errorf("disk: %s became shorter: %w", p.files[p.i].name, err)
	}
	p.left -= n
	p.finish(0)
	return nil
}

func (p *packer) end() {
	var total uint64
	for _, f := range p.files {
		total += uint64(f.size)
	}
	p.begin(frameEnd)
	p.buf = binary.BigEndian.AppendUint32(p.buf, uint32(len(p.files)))
	p.buf = binary.BigEndian.AppendUint64(p.buf, total)
	p.finish(0)
	p.ended = true
}

func (p *packer) closeFile() error {
	if p.open == nil {
		return nil
	}
	f := p.open
	p.open = nil
	return f.Close()
}

// unpacker writes the files of a stream into a directory. It checks each frame
// before it uses it.
type unpacker struct {
	in     io.Reader
	fs     vfs.FS
	dir    string
	sum    *xxhash.Digest
	head   [5]byte
	buf    []byte
	out    vfs.File
	left   int64
	seen   map[string]bool
	total  uint64
	meta   meta
	ending bool
}

// unpack reads a whole stream. When it returns nil, the files and their names
// are on the disk.
func unpack(in io.Reader, fs vfs.FS, dir string) (m meta, err error) {
	u := &unpacker{in: in, fs: fs, dir: dir, sum: xxhash.New(), seen: make(map[string]bool),
		buf: make([]byte, maxPayload+8)}
	defer func() {
		if u.out != nil {
			err = errors.Join(err, u.out.Close())
		}
	}()
	var start [len(magic)]byte
	if _, err := io.ReadFull(in, start[:]); err != nil || string(start[:]) != magic {
		return m, fmt.Errorf("%w: does not begin like one (%v)", ErrStream, err)
	}
	u.sum.WriteString(magic)
	for first := true; !u.ending; first = false {
		typ, payload, err := u.next()
		if err == nil && first != (typ == frameMeta) {
			err = fmt.Errorf("%w: frame %d out of place", ErrStream, typ)
		}
		if err == nil {
			err = u.take(typ, payload)
		}
		if err != nil {
			return m, err
		}
	}
	if n, _ := io.ReadFull(in, u.head[:1]); n != 0 {
		return m, fmt.Errorf("%w: goes on behind its end", ErrStream)
	}
	return u.meta, syncDir(fs, dir)
}

// next reads one frame and checks it.
func (u *unpacker) next() (typ byte, payload []byte, err error) {
	if _, err := io.ReadFull(u.in, u.head[:]); err != nil {
		return 0, nil, fmt.Errorf("%w: cut short: %w", ErrStream, err)
	}
	n := binary.BigEndian.Uint32(u.head[1:])
	if n > maxPayload {
		return 0, nil, fmt.Errorf("%w: frame of %d octets", ErrStream, n)
	}
	b := u.buf[:n+8]
	if _, err := io.ReadFull(u.in, b); err != nil {
		return 0, nil, fmt.Errorf("%w: cut short: %w", ErrStream, err)
	}
	u.sum.Write(u.head[:])
	u.sum.Write(b[:n])
	if binary.BigEndian.Uint64(b[n:]) != u.sum.Sum64() {
		return 0, nil, fmt.Errorf("%w: wrong checksum", ErrStream)
	}
	return u.head[0], b[:n], nil
}

func (u *unpacker) take(typ byte, b []byte) (err error) {
	if u.left > 0 != (typ == frameData) {
		return fmt.Errorf("%w: frame %d with %d octets of a file to come", ErrStream, typ, u.left)
	}
	switch typ {
	case frameMeta:
		u.meta, err = decodeMeta(b)
		return err
	case frameFile:
		return u.file(b)
	case frameData:
		return u.data(b)
	case frameEnd:
		return u.end(b)
	}
	return fmt.Errorf("%w: unknown frame %d", ErrStream, typ)
}

func (u *unpacker) file(b []byte) error {
	if len(b) < 9 {
		return fmt.Errorf("%w: file without a name", ErrStream)
	}
	size, name := binary.BigEndian.Uint64(b), string(b[8:])
	if !fileName(name) || u.seen[name] || len(u.seen) >= maxFiles || size > math.MaxInt64 {
		return fmt.Errorf("%w: bad file %q of %d octets", ErrStream, name, size)
	}
	u.seen[name] = true
	f, err := u.fs.Create(u.fs.PathJoin(u.dir, name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	u.out = vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: 4 << 20})
	u.left = int64(size)
	u.total += size
	return u.closeWhole()
}

func (u *unpacker) data(b []byte) error {
	if int64(len(b)) != min(u.left, maxPayload) {
		return fmt.Errorf("%w: %d octets where %d are left", ErrStream, len(b), u.left)
	}
	if _, err := u.out.Write(b); err != nil {
		return err
	}
	u.left -= int64(len(b))
	return u.closeWhole()
}

// closeWhole syncs and closes the file where nothing is missing.
func (u *unpacker) closeWhole() error {
	if u.left > 0 {
		return nil
	}
	f := u.out
	u.out = nil
	return errors.Join(f.Sync(), f.Close())
}

func (u *unpacker) end(b []byte) error {
	if len(b) != 12 || int(binary.BigEndian.Uint32(b)) != len(u.seen) ||
		binary.BigEndian.Uint64(b[4:]) != u.total {
		return fmt.Errorf("%w: files are missing", ErrStream)
	}
	u.ending = true
	return nil
}

// fileName accepts the names that a database's files have: nothing that could
// lead out of the directory or be taken for something else of ours.
func fileName(s string) bool {
	if len(s) == 0 || len(s) > maxName || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') &&
			!bytes.ContainsRune([]byte(".-_"), rune(c)) {
			return false
		}
	}
	return true
}
