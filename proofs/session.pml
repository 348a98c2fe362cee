/*
 * Sessions, docs/protocol.md, sections 7 and 8, as a model that Spin searches to its last state:
 * a client and a server exchange messages while the network cuts connections, both are
 * killed, and the server forgets whom it waited for too long.  Asserted is what
 * docs/sessions.md promises:
 *
 *     once      no message reaches the other application twice, or before an older one
 *     kept      what was acknowledged is there after a kill, where there is a spool
 *     held      a server with a spool goes on with every session that a client knows of
 *     told      when nothing happens any more, each message has arrived, or its sender
 *               was told that it may not have (or has died, without a spool)
 *
 * proofs/run says what is compiled in: SPOOL_C and SPOOL_S (which side has a spool), how
 * much happens, and WITHOUT_..., which takes a rule out of the protocol.
 *
 * What makes no difference is not told apart, or there were fifteen times as many states:
 *
 *   - Of a message that has arrived and one that was told of it is enough that nothing is
 *     owed to its sender any more: nobody asks which, and neither is taken back.
 *   - A connection is the client's present one, or one that it has left and the server still
 *     reads.  How many there were, nobody can see: none but these is read or written to.
 *   - What the server writes to a connection that the client has left, nobody reads, and the
 *     server begins anew where it goes on with the session: it writes nothing there.  When
 *     there is nothing more to read either, it is away at once: whatever else it does then,
 *     it can do as well when it is away.
 *   - A session's name that nobody knows any more is taken again for the next.  Names
 *     are only compared, with those that somebody knows.
 *   - A message that is lost with its sender before it was stored is as one that was not sent: it
 *     left no trace, as long as what leaves is stored.  The one that is sent next has its name.
 *   - What may leave, and what may be acknowledged, follows from what the spool has.
 *   - What is not used before it is set again is 0.
 */

#ifndef N
#define N 3             /* messages of each side */
#endif
#ifndef CUTS
#define CUTS 2
#endif
#ifndef KILLS_C
#define KILLS_C 1
#endif
#ifndef KILLS_S
#define KILLS_S 1
#endif
#ifndef EXPIRIES
#define EXPIRIES 1      /* times that the server's patience ends */
#endif
#define ROOM 2          /* frames on their way, for each direction of a connection */

#define CLIENT 0
#define SERVER 1
#define OTHER(x) (1 - (x))

#ifdef SPOOL_C
#define SPOOLED_C true
#else
#define SPOOLED_C false
#endif
#ifdef SPOOL_S
#define SPOOLED_S true
#else
#define SPOOLED_S false
#endif
#define SPOOLED(x) ((x) == CLIENT -> SPOOLED_C : SPOOLED_S)

mtype = { WELCOME, MESSAGE, ACK };

/* Where a side is. */
#define AWAY 0
#define CALLING 1       /* the client, until the WELCOME */
#define OPEN 2          /* on the client's present connection */
#define LEFT 3          /* the server, on one that the client has left */

/* One side.  Counts are those of the session. */
typedef Side {
    byte at;
    byte session;           /* 0: none */
    byte count;             /* accepted from the application */
    byte left;              /* of these have left over any connection */
    byte next;              /* the next one to leave over this connection */
    byte acked;             /* of these the other side has */
    byte received;          /* from the other side */
    byte announced;         /* of these were acknowledged over this connection */
    byte waiting[N];        /* which messages came and are not kept */
    /* what a spool has */
    byte dSession; byte dCount; byte dReceived; byte dAcked; byte dSent
}

Side side[2];
byte cuts = CUTS; byte killsC = KILLS_C; byte killsS = KILLS_S; byte expiries = EXPIRIES;

/* What the applications know. */
byte sent[2];               /* messages that the side has sent */
byte owed[2];               /* a bit for each that neither arrived nor was told to be lost */
byte newest[2];             /* 1 and the newest that arrived */

/*
 * On the way to each side, over the connection that the server is on: mtype, and of a
 * MESSAGE which it is, of an ACK the count, of the WELCOME session and count.  The HELLO
 * (session, count) of a client that calls is before that.
 */
chan wire[2] = [ROOM] of { mtype, byte, byte };
chan hello = [1] of { byte, byte };
#ifdef WITHOUT_CLOSING_THE_OLD
chan late = [ROOM] of { byte }      /* messages of the connection before */
#endif

byte m;                     /* scratch of a step */

/* The messages of a session are the last that side x has sent: which has this number? */
#define MESSAGE_OF(x, number) (sent[x] - side[x].count + (number))
#define BITS(first, last) ((1 << (last)) - (1 << (first)))

#define IN_SPOOL(x) (side[x].dSession == side[x].session)
#define STORED(x) (SPOOLED(x) -> (IN_SPOOL(x) -> side[x].dCount : 0) : side[x].count)
#define KEPT(x) (SPOOLED(x) -> (IN_SPOOL(x) -> side[x].dReceived : 0) : side[x].received)

/* Of what side x has accepted, so many may leave; of what came, so many be acknowledged. */
#ifdef WITHOUT_STORING_FIRST
#define SENDABLE(x) side[x].count
#else
#define SENDABLE(x) STORED(x)
#endif
#ifdef WITHOUT_KEEPING_FIRST
#define ACKNOWLEDGEABLE(x) side[x].received
#else
#define ACKNOWLEDGEABLE(x) KEPT(x)
#endif

inline flush(queue) {
    do
    :: nempty(queue) -> queue ? _, _, _
    :: else -> break
    od
}

inline hangUp() {
    if
    :: nempty(hello) -> hello ? _, _
    :: else
    fi
}

/* The application of the other side gets a message of side "from". */
inline deliver(from, message) {
    assert(message + 1 > newest[from]);         /* once, and in order */
    newest[from] = message + 1;
    owed[from] = owed[from] & ~(1 << message)
}

/* A message comes to side x. */
inline take(x, message) {
    if
    :: SPOOLED(x) -> side[x].waiting[side[x].received] = message
    :: else -> deliver(OTHER(x), message)
    fi;
    side[x].received++
}

/* Of side x the messages of these numbers are told to be lost, as far as it knows. */
inline tell(x, first, last) {
    owed[x] = owed[x] & ~(BITS(first, last) << MESSAGE_OF(x, 0))
}

/* A session begins for side x with so many messages that it has accepted before. */
inline begin(x, name, accepted) {
    side[x].session = name;
    side[x].count = accepted; side[x].left = 0; side[x].acked = 0;
    side[x].received = 0;
    m = 0;
    do
    :: m < N -> side[x].waiting[m] = 0; m++
    :: else -> break
    od;
    m = 0
}

/* Side x gives its session up: what the other side may not have is told. */
inline lose(x) {
#ifndef WITHOUT_TELLING
    tell(x, side[x].acked, side[x].count);
#endif
    begin(x, 0, 0)
}

/* All that side x has changed becomes durable, and what depends on it visible. */
inline commit(x) {
    m = KEPT(x);
    do
    :: m < side[x].received ->
        deliver(OTHER(x), side[x].waiting[m]);
        side[x].waiting[m] = 0;
        m++
    :: else -> break
    od;
    m = 0;
    side[x].dSession = side[x].session;
    side[x].dCount = side[x].count; side[x].dReceived = side[x].received;
    side[x].dAcked = side[x].acked; side[x].dSent = sent[x]
}

/* Side x is carried by the present connection, and goes on behind what the other side has. */
inline attach(x, has) {
    side[x].at = OPEN;
#ifdef WITHOUT_GOING_BACK       /* begin behind what was acknowledged, not what is there */
    side[x].next = side[x].acked
#else
    assert(side[x].acked <= has && has <= side[x].left);
    side[x].next = has
#endif
}

/* The transport under side x is gone. */
inline detach(x, to) {
    side[x].at = to; side[x].next = 0; side[x].announced = 0
}

/* The server is away when it has read all of a connection that the client has left. */
inline hear() {
    if
    :: side[SERVER].at == LEFT && empty(wire[SERVER]) -> detach(SERVER, AWAY)
    :: else
    fi
}

/* The client's connection ends; what is on its way to the server may still be read. */
inline leave() {
    detach(CLIENT, AWAY);
    flush(wire[CLIENT]);
    if
    :: side[SERVER].at == OPEN -> detach(SERVER, LEFT)
    :: else
    fi;
    hear()
}

/*
 * Side x is killed, and starts again.  What it has not stored is gone, and who sent it
 * with it: that counts as told.
 */
inline kill(x) {
    if
    :: !SPOOLED(x) -> tell(x, side[x].acked, side[x].count); begin(x, 0, 0)
    :: else ->
        assert(side[x].dSession == 0 || side[OTHER(x)].session != side[x].dSession ||
               side[OTHER(x)].acked <= side[x].dReceived);      /* kept */
        sent[x] = side[x].dSent; owed[x] = owed[x] & BITS(0, sent[x]);
        begin(x, side[x].dSession, side[x].dCount);
        side[x].acked = side[x].dAcked; side[x].received = side[x].dReceived;
        if      /* it does not know how much has left */
        :: side[x].session != 0 -> side[x].left = side[x].count
        :: else
        fi
    fi
}

proctype Run(byte x) {
    byte a, b;
    do
    /* The application sends: a client at any time, a server to a session. */
    :: d_step {
        sent[x] < N && (x == CLIENT || side[x].session != 0) ->
        owed[x] = owed[x] | (1 << sent[x]);
        sent[x]++; side[x].count++
    }

    /* A turn's commit. */
    :: d_step {
        SPOOLED(x) && (x == CLIENT || side[x].session != 0) &&
        (!IN_SPOOL(x) || side[x].dCount != side[x].count ||
         side[x].dReceived != side[x].received) ->
        commit(x)
    }

    /* A message leaves. */
    :: d_step {
        side[x].at == OPEN && side[x].next < SENDABLE(x) && nfull(wire[OTHER(x)]) ->
        wire[OTHER(x)] ! MESSAGE, MESSAGE_OF(x, side[x].next), 0;
        side[x].next++;
        if
        :: side[x].left < side[x].next -> side[x].left = side[x].next
        :: else
        fi
    }

    /* An acknowledgement leaves. */
    :: d_step {
        side[x].at == OPEN && side[x].announced < ACKNOWLEDGEABLE(x) &&
        nfull(wire[OTHER(x)]) ->
        wire[OTHER(x)] ! ACK, ACKNOWLEDGEABLE(x), 0;
        side[x].announced = ACKNOWLEDGEABLE(x)
    }

    /* A message or acknowledgement comes over the connection that carries the side. */
    :: d_step {
        wire[x] ? [MESSAGE, _, _] ->
        wire[x] ? MESSAGE, a, _;
        take(x, a);
        a = 0;
        hear()
    }
    :: d_step {
        wire[x] ? [ACK, _, _] ->
        wire[x] ? ACK, a, _;
        assert(a <= side[x].left);
        if
        :: a > side[x].acked -> side[x].acked = a
        :: else
        fi;
        a = 0;
        hear()
    }

#ifdef WITHOUT_CLOSING_THE_OLD  /* the connection before is still read after a take-over */
    :: d_step {
        x == SERVER && nempty(late) ->
        late ? a;
        take(x, a);
        a = 0
    }
#endif

    /* The client connects, and asks to go on with its session. */
    :: d_step {
        x == CLIENT && side[x].at == AWAY ->
        side[x].at = CALLING;
        hangUp();
        hello ! side[x].session, side[x].received
    }

    /* The server lets it in, whether it takes the connection before for alive or not. */
    :: d_step {
        x == SERVER && nempty(hello) ->
        hello ? a, b;
#ifdef WITHOUT_CLOSING_THE_OLD
        do
        :: wire[SERVER] ? [MESSAGE, _, _] -> wire[SERVER] ? MESSAGE, m, _; late ! m
        :: wire[SERVER] ? [ACK, _, _] -> wire[SERVER] ? ACK, _, _
        :: else -> break
        od;
        m = 0;
#endif
        flush(wire[SERVER]);
        if
#ifdef WITHOUT_NAMES            /* go on with any session */
        :: side[x].session != 0 -> skip
#else
        :: a != 0 && a == side[x].session -> skip
#endif
        :: else ->
            lose(SERVER);
            a = 1;
            do
            :: a == side[CLIENT].session || a == side[CLIENT].dSession -> a++
#ifdef WITHOUT_STORING_THE_SESSION
            :: a == side[x].dSession -> a++
#endif
            :: else -> break
            od;
            side[x].session = a; b = 0;
#ifndef WITHOUT_STORING_THE_SESSION     /* say WELCOME first */
            if
            :: SPOOLED(SERVER) -> commit(SERVER)
            :: else
            fi
#endif
        fi;
        detach(SERVER, AWAY);
        if      /* the client may have left meanwhile */
        :: side[CLIENT].at == CALLING ->
            attach(SERVER, b);
            wire[CLIENT] ! WELCOME, side[x].session, side[x].received
        :: else
        fi;
        a = 0; b = 0
    }
    :: d_step {
        wire[x] ? [WELCOME, _, _] ->
        wire[x] ? WELCOME, a, b;
        if
        :: a == side[x].session -> attach(CLIENT, b)
        :: else ->
            /* A server with a spool forgets nobody before its patience ends. */
            assert(side[x].session == 0 || !SPOOLED_S || expiries < EXPIRIES);
            /* What has left may have arrived; what has not goes into the new session. */
#ifndef WITHOUT_TELLING
            tell(CLIENT, side[x].acked, side[x].left);
#endif
            begin(CLIENT, a, side[x].count - side[x].left);
            attach(CLIENT, 0)
        fi;
        a = 0; b = 0
    }

    /* The server hears of the end of a connection, some time. */
    :: d_step {
        x == SERVER && side[x].at == LEFT ->
        flush(wire[SERVER]);
        detach(SERVER, AWAY)
    }
    od
}

/* What befalls them. */
proctype World() {
    do
    :: d_step { cuts > 0 && side[CLIENT].at != AWAY -> cuts--; leave() }
    /* The server has waited long enough for a client that is away. */
    :: d_step {
        expiries > 0 && side[SERVER].at == AWAY && side[SERVER].session != 0 ->
        expiries--;
        lose(SERVER);
        if
        :: SPOOLED_S -> commit(SERVER)
        :: else
        fi
    }
    :: d_step { killsC > 0 -> killsC--; kill(CLIENT); leave() }
    :: d_step {
        killsS > 0 ->
        killsS--;
        kill(SERVER);
        flush(wire[SERVER]); flush(wire[CLIENT]); hangUp();
        detach(CLIENT, AWAY); detach(SERVER, AWAY)
    }
    /* Nothing befalls them any more.  When nothing happens either, all is well: */
    :: d_step { cuts + killsC + killsS > 0 -> cuts = 0; killsC = 0; killsS = 0 }
    :: timeout ->
        assert(sent[CLIENT] == N && sent[SERVER] == N);
        assert(owed[CLIENT] == 0 && owed[SERVER] == 0)
    od
}

init {
    atomic { run Run(CLIENT); run Run(SERVER); run World() }
}
