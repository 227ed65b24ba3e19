namespace Tmds.Linux;

/// <summary>Error numbers: errno(3).</summary>
internal static unsafe partial class LibC
{
    public static int EPERM => 1;
    public static int ENOENT => 2;
    public static int ESRCH => 3;
    public static int EINTR => 4;
    public static int EIO => 5;
    public static int ENXIO => 6;
    public static int EAGAIN => 11;
    public static int ENOMEM => 12;
    public static int EACCES => 13;
    public static int EBUSY => 16;
    public static int EEXIST => 17;
    public static int ENODEV => 19;
    public static int EINVAL => 22;
    public static int ERANGE => 34;
    public static int EBADFD => 77;
    public static int EMSGSIZE => 90;
    public static int EPROTONOSUPPORT => 93;
    public static int EOPNOTSUPP => 95;
    public static int EAFNOSUPPORT => 97;
    public static int EADDRINUSE => 98;
    public static int EADDRNOTAVAIL => 99;
    public static int ENETDOWN => 100;
    public static int ENETUNREACH => 101;
    public static int ENOBUFS => 105;
    public static int EHOSTDOWN => 112;
    public static int EHOSTUNREACH => 113;
}
