// Records what hashicorp/memberlist sends, as first inputs for the fuzzers: fuzz/README.md tells how.
//
// For each way to configure it, three nodes on a network in memory join, talk, change their metadata,
// fail and leave. Written are some packets and streams of each kind, all that node 0 got, as one session,
// and some data as Go compresses it.
package main

import (
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// perKind is how many packets or streams of a kind are kept, of each configuration.
const perKind = 3

// sessionMax is about how long a session may become, in bytes.
const sessionMax = 8 << 10

// The kinds of records in a session, as the fuzzer has them.
const (
	datagram = iota
	stream
	answer
	pause
)

var settings = map[string]func(*memberlist.Config){
	"plain":      func(c *memberlist.Config) { c.EnableCompression = false },
	"compressed": func(c *memberlist.Config) {},
	"label":      func(c *memberlist.Config) { c.Label = "blue" },
	"encrypted":  func(c *memberlist.Config) { c.SecretKey = []byte("0123456789abcdef") },
}

// network carries packets and streams between nodes, by address, and keeps some.
type network struct {
	mu      sync.Mutex
	nodes   map[string]*transport
	folder  string
	name    string
	kept    map[string]int
	session bytes.Buffer
	last    time.Time
}

// keep writes one input, if there are not enough of its kind.
func (n *network) keep(target string, prefix, data []byte) {
	if len(data) == 0 {
		return
	}
	kind := fmt.Sprintf("%s/%s-%d", target, n.name, data[0])
	if n.kept[kind] == perKind {
		return
	}
	n.kept[kind]++
	write(filepath.Join(n.folder, fmt.Sprintf("%s-%d", kind, n.kept[kind])), append(prefix, data...))
}

// record adds what node 0 got to the session.
func (n *network) record(kind byte, from byte, data []byte) {
	if n.session.Len() > sessionMax || len(data) > 0xffff {
		return
	}
	if waited := time.Since(n.last).Milliseconds(); waited > 0 && waited <= 0xffff {
		n.header(pause, 0, int(waited))
	}
	n.last = time.Now()
	n.header(kind, from, len(data))
	n.session.Write(data)
}

func (n *network) header(kind, from byte, length int) {
	n.session.Write([]byte{kind, from})
	binary.Write(&n.session, binary.BigEndian, uint16(length))
}

// transport is one node's end of the network.
type transport struct {
	net     *network
	place   byte
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (n *network) transport(place byte) *transport {
	t := &transport{n, place, make(chan *memberlist.Packet, 1024), make(chan net.Conn, 64)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[t.addr().String()] = t
	return t
}

func (t *transport) addr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(10, 0, 0, t.place), Port: 7946}
}

func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IPv4(10, 0, 0, t.place).To4(), 7946, nil
}

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	t.net.keep("packet", nil, b)
	to := t.net.nodes[addr]
	if to == nil {
		return now, nil
	}
	if to.place == 0 {
		t.net.record(datagram, t.place, b)
	}
	from := &net.UDPAddr{IP: net.IPv4(10, 0, 0, t.place), Port: 7946}
	select {
	case to.packets <- &memberlist.Packet{Buf: bytes.Clone(b), From: from, Timestamp: now}:
	default:
	}
	return now, nil
}

func (t *transport) DialTimeout(addr string, _ time.Duration) (net.Conn, error) {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	to := t.net.nodes[addr]
	if to == nil {
		return nil, fmt.Errorf("nobody is at %s", addr)
	}
	here, there := net.Pipe()
	to.streams <- &conn{Conn: there, from: to, to: t, kind: answer}
	return &conn{Conn: here, from: t, to: to, kind: stream}, nil
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *transport) Shutdown() error {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	delete(t.net.nodes, t.addr().String())
	return nil
}

// conn is one end of a stream, and keeps what is written to it.
type conn struct {
	net.Conn
	from, to *transport
	kind     byte
	written  bytes.Buffer
	once     sync.Once
}

func (c *conn) RemoteAddr() net.Addr { return c.to.addr() }

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Write(b[:n])
	return n, err
}

func (c *conn) Close() error {
	c.once.Do(func() {
		n := c.from.net
		n.mu.Lock()
		defer n.mu.Unlock()
		// The fuzzer cuts the stream into pieces of as many bytes as the first one says.
		n.keep("stream", []byte{7}, c.written.Bytes())
		if c.to.place == 0 && c.written.Len() > 0 {
			n.record(c.kind, c.from.place, c.written.Bytes())
		}
	})
	return c.Conn.Close()
}

// delegate has metadata, a state and messages, and makes nothing of what it hears.
type delegate struct {
	meta  string
	queue memberlist.TransmitLimitedQueue
}

func (d *delegate) NodeMeta(int) []byte                  { return []byte(d.meta) }
func (d *delegate) NotifyMsg([]byte)                     {}
func (d *delegate) GetBroadcasts(over, max int) [][]byte { return d.queue.GetBroadcasts(over, max) }
func (d *delegate) LocalState(bool) []byte               { return []byte("a state of the application") }
func (d *delegate) MergeRemoteState([]byte, bool)        {}

// said is a message in the queue.
type said string

func (s said) Message() []byte                       { return []byte(s) }
func (s said) Invalidates(memberlist.Broadcast) bool { return false }
func (s said) Finished()                             {}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "error: name the folder of the corpora: capture fuzz/corpus")
		os.Exit(2)
	}
	folder := os.Args[1]
	for name, set := range settings {
		if err := capture(folder, name, set); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
	}
	for name, data := range map[string]string{
		"text":  strings.Repeat("the quick brown fox jumps over the lazy dog; ", 20),
		"zeros": strings.Repeat("\x00", 5000),
		"empty": "",
	} {
		var out bytes.Buffer
		writer := lzw.NewWriter(&out, lzw.LSB, 8)
		io.WriteString(writer, data)
		writer.Close()
		write(filepath.Join(folder, "lzw", "go-"+name), out.Bytes())
	}
}

func write(file string, data []byte) {
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, data, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func capture(folder, name string, set func(*memberlist.Config)) error {
	n := &network{nodes: map[string]*transport{}, folder: folder, name: "go-" + name, kept: map[string]int{}, last: time.Now()}
	var lists []*memberlist.Memberlist
	var delegates []*delegate
	for place, who := range []string{"me", "node1", "node2"} {
		conf := memberlist.DefaultLocalConfig()
		d := &delegate{meta: "meta of " + who}
		conf.Name, conf.Transport, conf.Delegate, conf.LogOutput = who, n.transport(byte(place)), d, io.Discard
		conf.ProbeInterval, conf.ProbeTimeout, conf.SuspicionMult = 100*time.Millisecond, 30*time.Millisecond, 2
		conf.IndirectChecks = 1
		set(conf)
		list, err := memberlist.Create(conf)
		if err != nil {
			return err
		}
		defer list.Shutdown()
		d.queue.NumNodes, d.queue.RetransmitMult = list.NumMembers, 1
		lists, delegates = append(lists, list), append(delegates, d)
	}
	for _, list := range lists[1:] {
		if _, err := list.Join([]string{"10.0.0.0:7946"}); err != nil {
			return err
		}
	}
	talk := func(from int) {
		message := fmt.Sprintf(`{"key":"I am %s","value":%d}`, lists[from].LocalNode().Name, from)
		delegates[from].queue.QueueBroadcast(said(message))
		write(filepath.Join(folder, "payload", fmt.Sprintf("go-%d", from)), []byte(message))
		for _, to := range lists[from].Members() {
			if to.Name != lists[from].LocalNode().Name {
				lists[from].SendBestEffort(to, []byte(message))
				lists[from].SendReliable(to, []byte(message+strings.Repeat(" ", 300)))
			}
		}
	}
	talk(0)
	talk(1)
	time.Sleep(500 * time.Millisecond)
	delegates[1].meta = "other metadata"
	if err := lists[1].UpdateNode(time.Second); err != nil {
		return err
	}
	// Node 2 fails, without a word; node 1 is left alone with node 0, and leaves.
	if err := lists[2].Shutdown(); err != nil {
		return err
	}
	time.Sleep(1500 * time.Millisecond)
	if err := lists[1].Leave(time.Second); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	write(filepath.Join(folder, "session", n.name), n.session.Bytes())
	return nil
}
