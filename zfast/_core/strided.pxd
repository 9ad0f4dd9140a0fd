# Moves runs of bytes, two loops deep: what is left of an n-dimensional copy at its innermost. Made
# by the compiler for each size of run that is common, since a call for every element would cost
# more than the element. Inline, for the one module that copies.

cdef extern from * nogil:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #include <type_traits>
    #include <utility>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    // A compiler without shuffles of vectors moves unit by unit: slower, never wrong.
    #ifdef __has_builtin
    #if __has_builtin(__builtin_shufflevector)
    #define ZFAST_SHUFFLE __builtin_shufflevector
    #endif
    #endif

    namespace {

    template <class Unit> struct ZfastVectorOf {
        typedef Unit type __attribute__((vector_size(16)));
    };
    template <class Unit> using ZfastVector = typename ZfastVectorOf<Unit>::type;

    template <class Unit> inline ZfastVector<Unit> zfast_reversed_each(ZfastVector<Unit> units) {
        auto pairs = (ZfastVector<uint16_t>)units;
        pairs = pairs << 8 | pairs >> 8;
        auto fours = (ZfastVector<uint32_t>)pairs;
        if (sizeof(Unit) >= 4)
            fours = fours << 16 | fours >> 16;
        auto eights = (ZfastVector<uint64_t>)fours;
        if (sizeof(Unit) >= 8)
            eights = eights << 32 | eights >> 32;
        return (ZfastVector<Unit>)eights;
    }

    inline uint16_t zfast_reversed(uint16_t unit) { return __builtin_bswap16(unit); }
    inline uint32_t zfast_reversed(uint32_t unit) { return __builtin_bswap32(unit); }
    inline uint64_t zfast_reversed(uint64_t unit) { return __builtin_bswap64(unit); }

    // A line of the output that is not in a cache stalls what writes to it, and rows are too short
    // for the processor to foresee the next one: asked for one row ahead, rows of 512 bytes come
    // at the speed of one long memcpy. Of longer rows it foresees the rest. Swapped ones and fills
    // go this way at any length, copies where they do not go past the caches.
    inline void zfast_expect(const char* to, size_t size) {
        for (size_t at = 0; at < size && at < 2048; at += 64)
            __builtin_prefetch(to + at, 1);
    }

    // Each of these puts one run of `size` bytes; memcpy of a size that the compiler knows is a
    // load and a store, at any alignment.
    template <size_t Size> struct ZfastFixed {
        static constexpr bool is_row = false;
        static inline void put(char* to, const char* from, size_t, size_t) {
            memcpy(to, from, Size);
        }
    };
    struct ZfastRun {
        static constexpr bool is_row = true;
        static inline void put(char* to, const char* from, size_t size, size_t) {
            memcpy(to, from, size);
        }
    };
    // Rows that are long enough go past the caches: a line that is written whole need not be read
    // first, and what decoding needs stays where it is. Chunks of 256 KiB in the second cache reach
    // an output of 256 MiB in 10 ms instead of 27, and reads of zstd and blosc take 4 % less time.
    #ifdef __SSE2__
    struct ZfastStreamed {
        static constexpr bool is_row = false;
        static inline void put(char* to, const char* from, size_t size, size_t) {
            size_t at = -reinterpret_cast<uintptr_t>(to) % 64;
            memcpy(to, from, at);
            for (; at + 64 <= size; at += 64)
                for (int part = 0; part < 64; part += 16) {
                    __m128i octets;
                    memcpy(&octets, from + at + part, 16);
                    _mm_stream_si128(reinterpret_cast<__m128i*>(to + at + part), octets);
                }
            memcpy(to + at, from + at, size - at);
        }
    };
    // Who learns of the rows must find them there.
    template <class Put> inline void zfast_settle() {
        if (std::is_same<Put, ZfastStreamed>::value)
            _mm_sfence();
    }
    #else
    typedef ZfastRun ZfastStreamed;
    template <class Put> inline void zfast_settle() {}
    #endif
    template <class Unit> struct ZfastFixedSwapped {
        static constexpr bool is_row = false;
        static inline void put(char* to, const char* from, size_t, size_t) {
            Unit unit;
            memcpy(&unit, from, sizeof unit);
            unit = zfast_reversed(unit);
            memcpy(to, &unit, sizeof unit);
        }
    };
    template <class Unit> struct ZfastRunSwapped {
        static constexpr bool is_row = true;
        static inline void put(char* to, const char* from, size_t size, size_t) {
            size_t at = 0;
            for (; at + 16 <= size; at += 16) {
                ZfastVector<Unit> units;
                memcpy(&units, from + at, 16);
                units = zfast_reversed_each<Unit>(units);
                memcpy(to + at, &units, 16);
            }
            for (; at < size; at += sizeof(Unit))
                ZfastFixedSwapped<Unit>::put(to + at, from + at, 0, 0);
        }
    };
    struct ZfastRunReversed {
        static constexpr bool is_row = true;
        static inline void put(char* to, const char* from, size_t size, size_t unit) {
            for (size_t at = 0; at < size; at += unit)
                for (size_t octet = 0; octet < unit; octet++)
                    to[at + octet] = from[at + unit - 1 - octet];
        }
    };
    // Fills: `from` has `unit` bytes, again and again.
    struct ZfastRepeated {
        static constexpr bool is_row = true;
        static inline void put(char* to, const char* from, size_t size, size_t unit) {
            for (; size > unit; size -= unit, to += unit)
                memcpy(to, from, unit);
            memcpy(to, from, size);
        }
    };
    struct ZfastOctets {
        static constexpr bool is_row = true;
        static inline void put(char* to, const char* from, size_t size, size_t) {
            memset(to, *from, size);
        }
    };

    template <class Put> void zfast_block(
        char* to, const char* from, ptrdiff_t slow, ptrdiff_t slow_to, ptrdiff_t slow_from,
        ptrdiff_t fast, ptrdiff_t fast_to, ptrdiff_t fast_from, size_t size, size_t unit)
    {
        for (ptrdiff_t i = 0; i < slow; i++)
            for (ptrdiff_t j = 0; j < fast; j++) {
                char* run = to + i * slow_to + j * fast_to;
                if (Put::is_row && j + 1 < fast)
                    zfast_expect(run + fast_to, size);
                Put::put(run, from + i * slow_from + j * fast_from, size, unit);
            }
        zfast_settle<Put>();
    }

    template <class Put> void zfast_listed(
        char* to, const char* from, ptrdiff_t count, ptrdiff_t to_stride, const ptrdiff_t* places,
        ptrdiff_t from_stride, const ptrdiff_t* positions, size_t size, size_t unit)
    {
        for (ptrdiff_t i = 0; i < count; i++)
            Put::put(to + (places ? places[i] : i * to_stride),
                     from + (positions ? positions[i] : i) * from_stride, size, unit);
        zfast_settle<Put>();
    }

    #ifdef ZFAST_SHUFFLE
    // Units of the upper halves of two vectors, or of their lower ones, by turns.
    template <class Unit, int Upper, size_t... At> inline ZfastVector<Unit> zfast_mixed(
        ZfastVector<Unit> one, ZfastVector<Unit> other, std::index_sequence<At...>)
    {
        constexpr int N = sizeof...(At);
        return ZFAST_SHUFFLE(
            one, other, static_cast<int>(Upper * N / 2 + At / 2 + At % 2 * N)...);
    }

    // Transposes a square of as many units as a vector holds: its first half of lines mixed with
    // its second half, once for each power of two.
    template <class Unit, bool Swapped> inline void zfast_square(
        char* to, ptrdiff_t to_stride, const char* from, ptrdiff_t from_stride)
    {
        constexpr int N = 16 / sizeof(Unit);
        constexpr auto all = std::make_index_sequence<N>();
        ZfastVector<Unit> lines[N], mixed[N];
        for (int i = 0; i < N; i++)
            memcpy(&lines[i], from + i * from_stride, 16);
        for (int stage = 1; stage < N; stage *= 2) {
            for (int i = 0; i < N / 2; i++) {
                mixed[2 * i] = zfast_mixed<Unit, 0>(lines[i], lines[i + N / 2], all);
                mixed[2 * i + 1] = zfast_mixed<Unit, 1>(lines[i], lines[i + N / 2], all);
            }
            for (int i = 0; i < N; i++)
                lines[i] = mixed[i];
        }
        for (int i = 0; i < N; i++) {
            if (Swapped)
                lines[i] = zfast_reversed_each<Unit>(lines[i]);
            memcpy(to + i * to_stride, &lines[i], 16);
        }
    }
    #endif

    // A block whose slow loop goes along the chunk and whose fast one goes along the output.
    template <class Unit, bool Swapped> void zfast_turn(
        char* to, const char* from, ptrdiff_t slow, ptrdiff_t slow_to, ptrdiff_t slow_from,
        ptrdiff_t fast, ptrdiff_t fast_to, ptrdiff_t fast_from, size_t size, size_t unit)
    {
        typedef typename std::conditional<
            Swapped, ZfastFixedSwapped<Unit>, ZfastFixed<sizeof(Unit)>>::type Put;
        ptrdiff_t i = 0;
        #ifdef ZFAST_SHUFFLE
        constexpr ptrdiff_t N = 16 / sizeof(Unit);
        if (slow_from == sizeof(Unit) && fast_to == sizeof(Unit) && fast >= N)
            for (; i + N <= slow; i += N) {
                char* rows = to + i * slow_to;
                const char* lines = from + i * slow_from;
                for (ptrdiff_t next = i + N; next < i + 2 * N && next < slow; next++)
                    zfast_expect(to + next * slow_to, fast * sizeof(Unit));
                ptrdiff_t j = 0;
                for (; j + N <= fast; j += N)
                    zfast_square<Unit, Swapped>(
                        rows + j * fast_to, slow_to, lines + j * fast_from, fast_from);
                zfast_block<Put>(rows + j * fast_to, lines + j * fast_from, N, slow_to, slow_from,
                                 fast - j, fast_to, fast_from, size, unit);
            }
        #endif
        zfast_block<Put>(to + i * slow_to, from + i * slow_from, slow - i, slow_to, slow_from,
                         fast, fast_to, fast_from, size, unit);
    }

    typedef void (*ZfastBlock)(char*, const char*, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                               ptrdiff_t, ptrdiff_t, size_t, size_t);

    struct ZfastKernel {
        ZfastBlock block;
        ZfastBlock turn;
        void (*listed)(char*, const char*, ptrdiff_t, ptrdiff_t, const ptrdiff_t*, ptrdiff_t,
                       const ptrdiff_t*, size_t, size_t);
        size_t size;
        size_t unit;
    };

    template <class Put> inline ZfastKernel zfast_kernel(size_t size, size_t unit) {
        return {zfast_block<Put>, zfast_block<Put>, zfast_listed<Put>, size, unit};
    }
    template <class Unit> inline ZfastKernel zfast_copy_of() {
        typedef ZfastFixed<sizeof(Unit)> Put;
        return {zfast_block<Put>, zfast_turn<Unit, false>, zfast_listed<Put>, sizeof(Unit), 0};
    }
    template <class Unit> inline ZfastKernel zfast_swap_of(size_t size) {
        typedef ZfastFixedSwapped<Unit> Put;
        if (size > sizeof(Unit))
            return zfast_kernel<ZfastRunSwapped<Unit>>(size, sizeof(Unit));
        return {zfast_block<Put>, zfast_turn<Unit, true>, zfast_listed<Put>, size, size};
    }

    inline ZfastKernel zfast_copy_kernel(size_t size) {
        switch (size) {
            case 1: return zfast_copy_of<uint8_t>();
            case 2: return zfast_copy_of<uint16_t>();
            case 3: return zfast_kernel<ZfastFixed<3>>(size, 0);
            case 4: return zfast_copy_of<uint32_t>();
            case 8: return zfast_copy_of<uint64_t>();
            case 12: return zfast_kernel<ZfastFixed<12>>(size, 0);
            case 16: return zfast_kernel<ZfastFixed<16>>(size, 0);
            default: return size < 512 ? zfast_kernel<ZfastRun>(size, 0)
                                       : zfast_kernel<ZfastStreamed>(size, 0);
        }
    }

    inline ZfastKernel zfast_swap_kernel(size_t size, size_t unit) {
        switch (unit) {
            case 2: return zfast_swap_of<uint16_t>(size);
            case 4: return zfast_swap_of<uint32_t>(size);
            case 8: return zfast_swap_of<uint64_t>(size);
            default: return zfast_kernel<ZfastRunReversed>(size, unit);
        }
    }

    inline ZfastKernel zfast_repeat_kernel(size_t size, size_t unit) {
        return unit == 1 ? zfast_kernel<ZfastOctets>(size, unit)
                         : zfast_kernel<ZfastRepeated>(size, unit);
    }

    }
    """
    ctypedef struct Kernel "ZfastKernel":
        # to, from, then count, stride of `to` and of `from` of the slow loop and of the fast one
        void (*block)(
            char*, const char*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
            Py_ssize_t, size_t, size_t
        ) noexcept nogil
        # the same, for a slow loop along the chunk and a fast one along the output
        void (*turn)(
            char*, const char*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
            Py_ssize_t, size_t, size_t
        ) noexcept nogil
        # to, from, count, stride of `to` or places, stride of `from`, times positions if any
        void (*listed)(
            char*, const char*, Py_ssize_t, Py_ssize_t, const Py_ssize_t*, Py_ssize_t,
            const Py_ssize_t*, size_t, size_t
        ) noexcept nogil
        size_t size     # of a run
        size_t unit     # whose bytes are reversed, or that is repeated

    Kernel copy_kernel "zfast_copy_kernel"(size_t size) noexcept
    Kernel swap_kernel "zfast_swap_kernel"(size_t size, size_t unit) noexcept
    Kernel repeat_kernel "zfast_repeat_kernel"(size_t size, size_t unit) noexcept
